"""The months by which events are kept: each has its table, made before an event of it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, date, datetime

import asyncpg
import structlog

from services.ledger.sessions import UNUSABLE, Connection, Pool

LOOK_S = 3600.0
RETRY_S = 60.0

# Of these months, those without a table; within a query that is made anyway.
MISSING = """ARRAY(
  SELECT month FROM unnest({months}::date[]) AS month
  WHERE to_regclass('public.events_' || to_char(month, 'YYYY_MM')) IS NULL
)"""
_AHEAD = """
SELECT make_event_month((date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month')::date)
FROM generate_series(0, 1) AS ahead
"""
_BY_NUMBER = "SELECT inhrelid AS index FROM pg_inherits WHERE inhparent = 'events_by_seq'::regclass"

log = structlog.get_logger(__name__)


def months_of(times: Iterable[datetime]) -> list[date]:
    """The first days of the months, in UTC, that these times are in."""
    return sorted({at.astimezone(UTC).date().replace(day=1) for at in times})


async def make(connection: Connection, months: Iterable[date]) -> None:
    """Make the tables of months that have none. Raises DatetimeFieldOverflowError for one that no event can be of."""
    for month in months:
        await connection.execute("SELECT make_event_month($1)", month)


async def summarize(connection: Connection) -> None:
    """Bring the indexes by number up to date, which PostgreSQL does in its own time: what is not in them is read with
    every page. As the owner, outside of a transaction; who may not do it leaves it."""
    for row in await connection.fetch(_BY_NUMBER):
        try:
            await connection.execute("SELECT brin_summarize_new_values($1::oid)", row["index"])
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError):  # the latter: a standby
            return


class MonthsAhead:
    """Makes this month and the next one long before anybody waits for them. What it misses, the writers make."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(self) -> None:
        """Look every hour, until cancelled; through lost servers too."""
        while True:
            try:
                async with self._pool.acquire() as connection:
                    await connection.execute(_AHEAD)
                wait_s = LOOK_S
            except UNUSABLE as error:
                log.warning("the months ahead could not be made", problem=f"{type(error).__name__}: {error}")
                wait_s = RETRY_S
            await asyncio.sleep(wait_s)
