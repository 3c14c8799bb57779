"""What a measurement gives: rows of a table, and numbers for a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """What came out of some turns."""

    median: float
    least: float
    most: float

    def of(self, form: str = ",.0f") -> str:
        """As text: the median, and between what the turns were."""
        return f"{self.median:{form}} ({self.least:{form}} to {self.most:{form}})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Figure:
    """One line: what was measured, what came out, and which part of its limit that is.

    `ratio` is of each turn, so it moves less with the machine than the value does. `numbers`: what the value says, for
    programs.
    """

    what: str
    value: str
    limit: str = ""
    ratio: Spread | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        beside = f"; {self.ratio.of('.2f')} of {self.limit}" if self.ratio else ""
        return f"{self.what}: {self.value}{beside}"


def in_turns(works: Mapping[str, Callable[[], float]], times: int) -> dict[str, list[float]]:
    """Each work's result, so many times, taking turns: what the machine does meanwhile meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(times):
        for name, work in works.items():
            found[name].append(work())
    return found


def rate(what: str, unit: str, rates: Sequence[float], limit: str = "", limits: Sequence[float] = ()) -> Figure:
    """So many a second, beside the limit's rates of the same turns."""
    came = spread(rates)
    ratio = spread([one / most for one, most in zip(rates, limits, strict=True)]) if limits else None
    return Figure(what, f"{came.of()} {unit}/s", limit, ratio, {f"{unit}_per_s": came.median})


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(values: Sequence[float]) -> str:
    """p50, p95, p99 and most."""
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("most", 1.0))
    return ", ".join(f"{name} {quantile(values, share):.1f}" for name, share in shares) + " ms"
