"""The bench says what has become slower, and nothing else."""

from __future__ import annotations

from tests.bench.__main__ import TOLERATED, compared
from tests.bench.figures import in_turns, rate, spread


def test_only_what_fell_far_below_the_committed_ratio_is_slower() -> None:
    committed = {"a": 0.1, "b": 0.1, "gone": 0.1}
    (line,) = compared({"a": 0.1 * TOLERATED * 0.99, "b": 0.1 * TOLERATED * 1.01, "new": 0.001}, committed)
    assert line.startswith("SLOWER a: 0.064")
    assert compared({"b": 0.2}, committed) == ["none of 1 ratios is below 65% of the committed one"]


def test_a_ratio_is_of_the_same_turn() -> None:
    turns = iter(range(1, 7))
    found = in_turns({"limit": lambda: 10.0 * next(turns), "work": lambda: float(next(turns))}, 3)
    assert found == {"limit": [10.0, 30.0, 50.0], "work": [2.0, 4.0, 6.0]}
    figure = rate("work", "tasks", found["work"], "limit", found["limit"])
    assert (figure.value, figure.ratio) == ("4 (2 to 6) tasks/s", spread([0.2, 4 / 30, 0.12]))
