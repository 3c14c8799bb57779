"""The names of budget windows (`2026-11-23T16`, `2026-11`) as times. All UTC. The same few come again and again."""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import lru_cache


@lru_cache(maxsize=1024)
def hour_start(hour: str) -> datetime:
    """The beginning of an hour that is named `2026-11-23T16`."""
    return datetime.strptime(hour, "%Y-%m-%dT%H").replace(tzinfo=UTC)


@lru_cache(maxsize=1024)
def month_start(month: str) -> date:
    """The first day of a month that is named `2026-11`."""
    return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC).date()


@lru_cache(maxsize=1024)
def window_start(window: str) -> datetime | None:
    """The beginning of a quota's window, from a minute (`2026-11-23T16:05`) to a month; None where it is named ``."""
    named = f"{window}-01" if len(window) == len("2026-11") else window
    return datetime.fromisoformat(named).replace(tzinfo=UTC) if named else None


def month_of(moment: datetime) -> date:
    """The first day of the month that a time falls into."""
    return moment.astimezone(UTC).date().replace(day=1)


def hour_of(moment: datetime) -> datetime:
    """The beginning of the clock hour that a time falls into."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
