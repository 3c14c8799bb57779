"""Work that processes share: in order, told of, and stopped by an error."""

from __future__ import annotations

import asyncio
import os

import pytest

from services.ledger.processes import Tell, piles, shared


async def half(number: int, tell: Tell) -> tuple[int, int]:
    """Half of an even number, and by which process."""
    if number % 2:
        raise ValueError(f"{number} is odd")
    tell(number)
    return number // 2, os.getpid()


def test_several_pieces_are_done_elsewhere_and_come_back_in_their_order() -> None:
    told: list[tuple[int, int]] = []
    done = asyncio.run(shared(half, [8, 2, 6, 4], 20, lambda at, of: told.append((at, of))))
    assert [number for number, _ in done] == [4, 1, 3, 2]
    assert os.getpid() not in {process for _, process in done}
    assert told[-1] == (20, 20) and [at for at, _ in told] == sorted(at for at, _ in told)
    with pytest.raises(ValueError, match="3 is odd"):
        asyncio.run(shared(half, [2, 3, 4], 9))


def test_a_single_piece_is_done_here() -> None:
    assert asyncio.run(shared(half, [2], 2)) == [(1, os.getpid())]


def test_piles_are_of_about_the_same_weight_and_worth_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert piles({0: 5, 1: 9, 2: 3, 3: 2}, 4) == [[1], [0, 2, 3]]
    assert piles({0: 5, 1: 3}, 10) == [[0, 1]]
    assert piles({}, 10) == [[]]
