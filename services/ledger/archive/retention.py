"""How long months of events stay in the database: which of them are due to be archived, and which are overdue.

Who archives is the owner, in a process of its own (ADR 24). The ledger, which may not, says what has not been done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from pathlib import Path

import asyncpg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger import metrics
from services.ledger.archive.archiving import END, archive, latest_before, may_go, months_before
from services.ledger.archive.record import ArchiveProblem
from services.ledger.sessions import UNUSABLE, Busy, Connection, Pool, write_as_ledger

LOOK_S = 3600.0
RETRY_S = 60.0
# A month is due when the next begins, and overdue when whoever archives once a day had two days for it.
GRACE = timedelta(days=2)

log = structlog.get_logger(__name__)


async def due_before(database_url: str, months: int) -> date:
    """Months before this one are to be archived, where so many stay beside the one in which the books end."""
    connection: Connection = await asyncpg.connect(database_url, timeout=5.0)
    try:
        async with connection.transaction(readonly=True):
            await write_as_ledger(connection)
            return latest_before(await connection.fetchval(END), months)
    finally:
        await connection.close()


async def archive_due(
    database_url: str, folder: Path, months: int, *, key: Ed25519PrivateKey | None = None
) -> dict[date, int] | None:
    """Archive what is older than so many months, and the one that runs; the events of each month that went.

    The URL is the owner's. None: somebody else is at it. Raises as `archive` does.
    """
    try:
        reports = await archive(database_url, folder, await due_before(database_url, months), key=key)
    except Busy as error:
        log.info("months are archived later", reason=str(error))
        return None
    return {report.month: report.events for report in reports}


async def keep_archiving(work: Callable[[], Awaitable[dict[date, int] | None]], every_s: float) -> None:
    """Do that again and again, until cancelled; whatever it fails by is said, and tried again the next time."""
    while True:
        try:
            for month, events in (await work() or {}).items():
                log.info("a month was archived", month=f"{month:%Y-%m}", events=events)
        except (ArchiveProblem, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            log.error("months cannot be archived", problem=f"{type(error).__name__}: {error}")
        await asyncio.sleep(every_s)


async def overdue(connection: Connection, months: int) -> list[date]:
    """The months that should be in an archive by now, and have events that could. As the ledger, in a transaction."""
    before = latest_before(await connection.fetchval(END) - GRACE, months)
    return [month for month, _ in await months_before(connection, before) if await may_go(connection, month)]


class Overdue:
    """Looks for such months every hour. Whoever should have archived them may be gone, and would not say so."""

    def __init__(self, pool: Pool, months: int) -> None:
        self._pool = pool
        self._months = months

    async def run(self) -> None:
        """Until cancelled; through lost servers too."""
        while True:
            try:
                async with self._pool.acquire() as connection, connection.transaction(readonly=True):
                    found = await overdue(connection, self._months)
                metrics.ARCHIVE_OVERDUE.set(len(found))
                if found:
                    named = [f"{month:%Y-%m}" for month in found]
                    log.warning("months should have been archived", months=named, todo="skeldir ledger archive")
                wait_s = LOOK_S
            except UNUSABLE as error:
                log.warning("cannot see which months are overdue", problem=f"{type(error).__name__}: {error}")
                wait_s = RETRY_S
            await asyncio.sleep(wait_s)
