"""What was far from the usual for its hour of the day: spend, and failures. The formula is in docs/reads.md.

The usual is the median of the same hour in the four weeks before, of working days or of weekends; how far is far is
told by their median absolute deviation. So a few wild days in the past change little, and quiet tenants make no noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Literal

HOUR = timedelta(hours=1)
DAYS = 28
# Of fewer days nothing is known to be usual.
LEAST_DAYS = 5
FAR = 5
# The median absolute deviation of a normal distribution, as its standard deviation.
NORMAL = Decimal("1.4826")

What = Literal["spend", "failures"]
# By how much at least it differs: cents, calls.
LEAST: Mapping[What, Decimal] = {"spend": Decimal(100), "failures": Decimal(20)}


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened in one clock hour: cents, calls."""

    spend: Decimal = Decimal(0)
    failures: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An hour whose spend (cents) or failures were `score` times the usual spread away from the usual."""

    hour: datetime
    what: What
    value: Decimal
    usual: Decimal
    score: Decimal
    days: int
    """How many days the usual is of."""


def anomalies(seen: Mapping[datetime, Seen], since: datetime, now: datetime) -> list[Anomaly]:
    """The unusual hours from `since` to `now`, oldest first. `seen`: by hour in UTC, those of `compared` and the
    first of all, from `DAYS` before `since` on.

    An hour without an entry is one in which nothing happened; before the first entry nothing is known. The hour that
    has not ended can only have had too much.
    """
    first, hour = min(seen, default=now), since.replace(minute=0, second=0, microsecond=0)
    found = []
    while hour < now:
        for what in LEAST:
            past = [getattr(seen.get(one, Seen()), what) for one in _alike(hour) if one >= first]
            value = getattr(seen.get(hour, Seen()), what)
            if len(past) >= LEAST_DAYS:
                usual, score = scored(value, past, LEAST[what])
                can_be_little = what == "spend" and hour + HOUR <= now
                if score > FAR or (can_be_little and score < -FAR):
                    found.append(Anomaly(hour, what, value, usual, score.quantize(Decimal("0.1")), len(past)))
        hour += HOUR
    return found


def compared(since: datetime, now: datetime) -> set[datetime]:
    """The hours of which `anomalies` wants to know what happened in them."""
    first = since.replace(minute=0, second=0, microsecond=0)
    hours = [first + number * HOUR for number in range(-(-(now - first) // HOUR))]
    return {one for hour in hours for one in (hour, *_alike(hour))}


def scored(value: Decimal, past: list[Decimal], least: Decimal) -> tuple[Decimal, Decimal]:
    """The usual, and how many spreads the value is away from it. A spread is at least a tenth of the usual, and so much
    that `FAR` spreads are `least`."""
    usual = median(past)
    spread = max(NORMAL * median(abs(one - usual) for one in past), usual / 10, least / FAR)
    return usual, (value - usual) / spread


def _alike(hour: datetime) -> Iterator[datetime]:
    """The same hour of the days before: of working days, or of weekends."""
    for days in range(1, DAYS + 1):
        one = hour - timedelta(days=days)
        if (one.weekday() >= 5) == (hour.weekday() >= 5):
            yield one
