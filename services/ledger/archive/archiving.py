"""Months of events out of the database, into files. As the owner; nothing else takes an event away.

For each month, and each chain: a file is written, is on the disk, is read back and held against what was read. Then, in
one transaction, the files are recorded and the month's table is emptied. Whoever dies on the way leaves files that
nobody recorded; the next run writes the same, or others.

What the system still needs stays: orders, which are few and are folded as a whole, and the events of tasks that have
not come to their end, or of which a reservation is open.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.archive import parquet
from services.ledger.archive.parquet import COLUMNS
from services.ledger.archive.predecessors import Links
from services.ledger.archive.record import ArchivedFile, ArchiveProblem, find
from services.ledger.archive.writing import NewFile
from services.ledger.chain import heads
from services.ledger.processes import Progress
from services.ledger.sessions import Busy, Connection, alone, snapshot, write_as_ledger

TIMEOUT_S = 24 * 3600.0
PAGE = 2000
# The month's table is emptied when nobody reads it; who waits for that keeps others waiting, so not for long at once.
LOCK_TIMEOUT = "2s"
TRIES = 60
PAUSE_S = 1.0
LOOKED_AT = 5000

_MONTHS = """
SELECT to_date(right(relid::text, 7), 'YYYY_MM') AS month, greatest(0, reltuples)::bigint AS rows
FROM pg_partition_tree('public.events') JOIN pg_class ON pg_class.oid = relid
WHERE level = 1 AND to_date(right(relid::text, 7), 'YYYY_MM') < $1 ORDER BY 1
"""
# The books end where the last checkpoint is, or now: restored from an old copy, they end earlier.
END = """
SELECT least(now(), to_timestamp((max(split_part(entry_id, '-', 1)::bigint) / 1000)::double precision))
FROM checkpoints WHERE entry_id <> '0-0'
"""
_OPEN = """
WITH open AS (
  SELECT tenant_id, id::text AS subject FROM llm_api_calls WHERE status = 'pending'
  UNION SELECT tenant_id, api_call_id::text FROM llm_budget_reservations WHERE state IN ('reserved', 'held')
)
"""
_OF_MONTH = "time >= $1 AND time < $2"
_GOES = """
partition IS NOT NULL AND seq > 0 AND seq <= $3
AND NOT EXISTS (SELECT FROM open WHERE open.tenant_id = e.tenant_id AND open.subject = e.subject)
"""
_ROWS = f"{_OPEN} SELECT {', '.join(COLUMNS)} FROM events AS e WHERE {_OF_MONTH} AND {_GOES} ORDER BY partition, seq"
_STAYS = f"{_OPEN} SELECT seq FROM events AS e WHERE {_OF_MONTH} AND NOT ({_GOES})"
# The same of some rows, by keys: who only looks reads no whole table of calls for it.
_SOME = f"""
SELECT DISTINCT tenant_id, subject FROM (
  SELECT tenant_id, subject FROM events WHERE {_OF_MONTH} AND partition IS NOT NULL AND seq > 0 LIMIT $3
) AS first
"""
_SOME_OPEN = """
SELECT tenant_id, id::text AS subject FROM llm_api_calls WHERE id = ANY ($2::uuid[]) AND status = 'pending'
UNION SELECT tenant_id, api_call_id::text FROM llm_budget_reservations
WHERE tenant_id = ANY ($1::uuid[]) AND api_call_id = ANY ($2::uuid[]) AND state IN ('reserved', 'held')
"""
_TASK = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COPY = f"SELECT {', '.join(COLUMNS)} FROM"
_RECORD = f"""
INSERT INTO event_archives ({", ".join(ArchivedFile.__slots__)})
VALUES ({", ".join(f"${number + 1}" for number in range(len(ArchivedFile.__slots__)))})
"""


@dataclass(slots=True)
class MonthReport:
    """What became of a month. `stay`: how many of its events did."""

    month: date
    files: list[ArchivedFile] = field(default_factory=list)
    stay: int = 0

    @property
    def events(self) -> int:
        return sum(one.rows for one in self.files)


async def archive(
    database_url: str,
    folder: Path,
    before: date,
    *,
    key: Ed25519PrivateKey | None = None,
    keep: bool = False,
    progress: Progress | None = None,
) -> list[MonthReport]:
    """Archive all months before that one, the oldest first. The URL is the owner's.

    `key`: seals the records. `keep`: the files are written and checked, and nothing leaves the database.
    Raises ArchiveProblem, Busy, OSError, the driver's errors; the months before are then archived.
    """
    check_folder(folder)
    done = []
    async with connected(database_url) as connection, alone(connection):
        async with connection.transaction(readonly=True):
            await write_as_ledger(connection)
            months = await months_before(connection, before)
            end = await connection.fetchval(END)
        if before > (latest := latest_before(end)):
            raise ArchiveProblem(f"the books end on {end:%Y-%m-%d}: that month and the one before it stay, so at most "
                                 f"--before {latest:%Y-%m}")  # fmt: skip
        read = _Read(progress, sum(rows for _, rows in months))
        for month, _ in months:
            work = _Month(database_url, connection, folder, month, read)
            report = await work.write()
            if report.files and not keep:
                await work.take_out(report, key)
            if report.files:
                done.append(report)
    return done


def check_folder(folder: Path) -> None:
    """Whether files can be written there; it is made where it is not. Raises ArchiveProblem."""
    parquet.library()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveProblem(f"the archive's folder cannot be made: {error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ArchiveProblem(f"the archive's folder cannot be written: {folder}")


async def months_before(connection: Connection, before: date) -> list[tuple[date, int]]:
    """The months before that one that have a table, the oldest first, and about how many events each has."""
    return [(row["month"], row["rows"]) for row in await connection.fetch(_MONTHS, before)]


async def may_go(connection: Connection, month: date) -> bool:
    """Whether a month has events that can leave the database, of the first `LOOKED_AT`. As the ledger."""
    rows = {tuple(row) for row in await connection.fetch(_SOME, *_span(month), LOOKED_AT)}
    tenants, tasks = {tenant for tenant, _ in rows}, [subject for _, subject in rows if _TASK.fullmatch(subject)]
    stay = {tuple(row) for row in await connection.fetch(_SOME_OPEN, list(tenants), tasks)}
    return bool(rows - stay)


def latest_before(end: datetime, months: int = 1) -> date:
    """Months before this one may go, of books that end then, where so many stay beside the last. Two stay at least: ids
    of events that come again are looked up in them (`chain/heads.py`), and windows of quotas lie there."""
    of = end.astimezone(UTC)
    year, month = divmod(of.year * 12 + of.month - 1 - max(1, months), 12)
    return date(year, month + 1, 1)


def _span(month: date) -> tuple[datetime, datetime]:
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    return start, (start + timedelta(days=32)).replace(day=1)


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Connection]:
    """A connection of its own, for as long as a month takes."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.close()


class _Month:
    """One month, on its way."""

    def __init__(
        self, database_url: str, connection: Connection, folder: Path, month: date, read: Callable[[int], None]
    ) -> None:
        self._database_url = database_url
        self._connection = connection
        self._folder = folder
        self._month = month
        self._table = f"events_{month:%Y_%m}"
        self._span = _span(month)
        self._read = read
        self._upto = 0
        self._stay: list[int] = []

    async def write(self) -> MonthReport:
        """Its files, each checked. Nothing of it is recorded."""
        report = MonthReport(self._month)
        async with AsyncExitStack() as stack:
            async with heads.held(self._database_url):  # so that no row is missing below the last number
                connection = await stack.enter_async_context(snapshot(self._database_url, timeout_s=TIMEOUT_S))
                self._upto = await connection.fetchval("SELECT last_value FROM events_seq_seq")
            asked = (*self._span, self._upto)
            self._stay = [row["seq"] for row in await connection.fetch(_STAYS, *asked)]
            links = Links(connection, await find(connection, self._folder), "nothing of its month was archived")
            await connection.execute("SET LOCAL work_mem = '128MB'")
            cursor = await connection.cursor(_ROWS, *asked)
            file: NewFile | None = None
            while page := await cursor.fetch(PAGE):
                for chain, group in groupby(page, key=itemgetter("partition")):
                    if file is None or file.chain != chain:
                        report.files += [] if file is None else [await asyncio.to_thread(file.close)]
                        file = stack.enter_context(NewFile(self._folder, self._month, chain))
                    rows = list(group)
                    links.follow(chain, rows)
                    await asyncio.to_thread(file.add, rows)
                self._read(len(page))
            report.files += [] if file is None else [await asyncio.to_thread(file.close)]
            await links.check_beginnings()
        report.stay = len(self._stay)
        return report

    async def take_out(self, report: MonthReport, key: Ed25519PrivateKey | None) -> None:
        """Record the files and empty the table, in one transaction. Raises Busy where others read it all the time."""
        for _ in range(TRIES):
            try:
                async with self._connection.transaction():
                    report.files = await self._record(report.files, key)
                    await self._empty(report.events)
                return
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(PAUSE_S)
        raise Busy(f"others read the events of {self._month:%Y-%m} all the time (a check, a dump?): try again later")

    async def _record(self, files: Sequence[ArchivedFile], key: Ed25519PrivateKey | None) -> list[ArchivedFile]:
        at = await self._connection.fetchval("SELECT now()")
        dated = [replace(one, archived_at=at) for one in files]
        signed = dated if key is None else [one.signed(key) for one in dated]
        values = [[getattr(one, name) for name in ArchivedFile.__slots__] for one in signed]
        await self._connection.executemany(_RECORD, values)
        return signed

    async def _empty(self, events: int) -> None:
        """Of all that is in the files; what stays, and what came since, is put back."""
        connection, kept = self._connection, "rebuilding.kept_events"
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        await connection.execute(f"LOCK TABLE {self._table} IN SHARE ROW EXCLUSIVE MODE")  # whoever appends waits
        await connection.execute(f"DROP TABLE IF EXISTS {kept}")
        await connection.execute(f"CREATE UNLOGGED TABLE {kept} (LIKE events)")
        await connection.execute(f"GRANT SELECT, INSERT ON {kept} TO skeldir_ledger")
        await write_as_ledger(connection)
        stays = f"(seq = ANY ($3::bigint[]) OR seq > {self._upto})"
        asked = (*self._span, self._stay)
        await connection.execute(f"INSERT INTO {kept} {_COPY} events WHERE {_OF_MONTH} AND {stays}", *asked)
        gone = await connection.fetchval(f"SELECT count(*) FROM events WHERE {_OF_MONTH} AND NOT {stays}", *asked)
        if gone != events:
            said = f"{gone} events of {self._month:%Y-%m} would go, and {events} are in the files"
            raise ArchiveProblem(f"{said}: nothing of it was archived")
        await connection.execute("RESET ROLE")
        await connection.execute(f"ALTER TABLE {self._table} DISABLE TRIGGER append_only_whole")
        await connection.execute(f"TRUNCATE {self._table}")
        await connection.execute(f"ALTER TABLE {self._table} ENABLE TRIGGER append_only_whole")
        await write_as_ledger(connection)
        await connection.execute(f"INSERT INTO events ({', '.join(COLUMNS)}) {_COPY} {kept} ORDER BY seq")
        await connection.execute("RESET ROLE")
        await connection.execute(f"DROP TABLE {kept}")


class _Read:
    """How many events were read, of about how many."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._done, self._total = 0, total

    def __call__(self, events: int) -> None:
        self._done += events
        if self._progress is not None:
            self._progress(self._done, max(self._done, self._total))
