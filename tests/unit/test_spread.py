"""Leases spread over processes until no two of them are more than one apart; then none moves any more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shared.streams.spread import Spread

PAUSE_S = 2.0


class Process:
    """One that wants every lease."""

    def __init__(self, has: int) -> None:
        self.has = has
        self.spread = Spread(lambda: self.has, PAUSE_S)


def settled(processes: Sequence[Process], rounds: int = 100) -> int:
    """Each holder meets each other's wish, again and again; how many leases moved."""
    moved = 0
    for number in range(rounds):
        for holder in processes:
            for other in processes:
                if other is not holder and holder.spread.lets_go(other.has, number * PAUSE_S):
                    holder.has, other.has = holder.has - 1, other.has + 1
                    moved += 1
    return moved


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        ([4, 0], [2, 2], 2),
        ([4, 0, 0], [1, 1, 2], 3),
        ([5, 0], [2, 3], 2),
        ([1, 0], [0, 1], 0),
        ([2, 1, 1], [1, 1, 2], 0),
    ],
)
def test_no_two_are_more_than_one_apart(before: list[int], after: list[int], moves: int) -> None:
    processes = [Process(has) for has in before]
    assert settled(processes) == moves
    assert sorted(one.has for one in processes) == sorted(after)
    assert settled(processes) == 0


def test_one_goes_in_a_pause_and_none_where_nobody_wants_it() -> None:
    spread = Spread(lambda: 4, PAUSE_S)
    assert not spread.lets_go(-1, 0.0)
    assert spread.lets_go(0, 0.0)
    assert not spread.lets_go(0, PAUSE_S / 2), "what the other has is not known yet"
    assert spread.lets_go(0, PAUSE_S)
