"""The projections again, from the events alone, beside those that are read (`beside.py`).

Writers and readers go on while the events are folded: those that are there, then what came meanwhile, until little
comes. Then, as of one moment, the rows are held against those that are read, and the wrong ones are noted: one that is
right then stays right, for its writer does to it what the fold does. Only where there are wrong ones, writers wait: the
last events are folded, and these rows are replaced, in one transaction. So readers see the old tables or the new ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from services.ledger import beside, event_pages, rollups
from services.ledger.archive.record import Archive, find_whole
from services.ledger.event_pages import PAGE, spans
from services.ledger.processes import Progress, shared
from services.ledger.projections import TABLES
from services.ledger.projections.calls import CALLS
from services.ledger.sessions import Connection, alone, write_as_ledger

# Writers wait while this many events, at most, are folded; unless they are as quick as the fold.
REST = 5 * PAGE
ROUNDS = 20
# So many calls at once are better summed again than each by the triggers.
MANY = 10_000
_TRIGGERS = ("roll_up_new", "roll_up_changed")


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How many events were read, how many rows each table has now, and how many of them were replaced or removed."""

    events: int
    rows: Mapping[str, int]
    changed: Mapping[str, int]


async def rebuild(database_url: str, progress: Progress | None = None, *, archive: Path | None = None) -> RebuildReport:
    """Make every projection the fold of the events. The URL is the owner's. `archive`: the folder of archived events.

    Raises Busy, ArchiveProblem, UndecodableEvent, or the driver's errors; then the projections are as they were.
    """
    async with _connected(database_url) as connection, alone(connection):
        async with connection.transaction():
            files = await find_whole(connection, archive)
            await beside.make(connection)
        await event_pages.prepare(connection)
        work = _Rebuild(database_url, connection, files, progress)
        changed = await work.run()
        async with connection.transaction():
            await write_as_ledger(connection)
            rows = {table.name: await connection.fetchval(f"SELECT count(*) FROM {table.name}") for table in TABLES}
        await beside.drop(connection)
    return RebuildReport(work.events, rows, changed)


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[Connection]:
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=beside.TIMEOUT_S)
    try:
        yield connection
    finally:
        await connection.close()


class _Rebuild:
    """How far the tables beside are, and the steps in their order."""

    def __init__(self, database_url: str, connection: Connection, archive: Archive, progress: Progress | None) -> None:
        self._database_url = database_url
        self._connection = connection
        self._archive = archive
        self._progress = progress
        self._upto = self._folded = self._orders = 0

    @property
    def events(self) -> int:
        return self._folded + self._orders

    async def run(self) -> dict[str, int]:
        """How many rows of each table were changed."""
        await self._follow()
        await self._connection.execute(f"ANALYZE {', '.join(f'rebuilding.{table.name}' for table in TABLES)}")
        async with self._connection.transaction():
            await write_as_ledger(self._connection)
            are_sound = not await rollups.differences(self._connection)
        wrong = await self._compare()
        if are_sound and not any(wrong.values()):
            return wrong
        await self._follow()
        return await self._replace(wrong, are_sound)

    async def _follow(self) -> None:
        """Fold what is there, then what came meanwhile, until little comes. Nobody waits for more than a moment."""
        for _ in range(ROUNDS):
            async with self._connection.transaction():
                end = await _hold_writers(self._connection)
            pieces, gained = spans(self._upto, end, archive=self._archive), end - self._upto
            fold = partial(beside.fold_span, self._database_url)
            self._folded += sum(await shared(fold, pieces, gained, self._progress))
            self._upto = end
            if gained <= REST:
                return

    async def _compare(self) -> dict[str, int]:
        """Note what is wrong at one moment. Writers wait until it is fixed; not for what is done with it."""
        async with self._connection.transaction(isolation="repeatable_read"):
            async with _connected(self._database_url) as holder, holder.transaction():
                end = await _hold_writers(holder)
                await self._connection.fetchval("SELECT 1")  # from here on it sees what is there now
            await write_as_ledger(self._connection)
            await self._fold_rest(end)
            return await beside.compare(self._connection)

    async def _replace(self, wrong: Mapping[str, int], are_sound: bool) -> dict[str, int]:
        """Writers wait, and readers see nothing of it until it is done."""
        async with self._connection.transaction():
            end = await _hold_writers(self._connection)
            by_hand = not are_sound or wrong[CALLS.name] > MANY
            if by_hand:
                await _switch(self._connection, "DISABLE")
            await write_as_ledger(self._connection)
            await self._fold_rest(end)
            done = {table.name: await beside.replace(self._connection, table) for table in TABLES}
            if by_hand or done[CALLS.name][0]:  # no trigger tells the sums of a row that goes
                await rollups.sum_again(self._connection)
            await self._connection.execute("RESET ROLE")
            if by_hand:
                await _switch(self._connection, "ENABLE")
        return {name: gone + written for name, (gone, written) in done.items()}

    async def _fold_rest(self, end: int) -> None:
        self._folded += await beside.fold_rest(self._connection, spans(self._upto, end, archive=self._archive))
        self._orders = await beside.fold_orders(self._connection)
        self._upto = end


async def _hold_writers(connection: Connection) -> int:
    """Writers wait until the transaction ends. Events up to this number are in the books, and later ones are not.

    Every commit of a writer begins with its checkpoint, and whatever appends moves a chain.
    """
    await connection.execute("LOCK TABLE checkpoints IN SHARE ROW EXCLUSIVE MODE")
    await connection.execute("LOCK TABLE event_chains IN SHARE ROW EXCLUSIVE MODE")
    last: int = await connection.fetchval("SELECT last_value FROM events_seq_seq")
    return last


async def _switch(connection: Connection, how: str) -> None:
    """The triggers that keep the rollups. As the owner."""
    for name in _TRIGGERS:
        await connection.execute(f"ALTER TABLE {CALLS.name} {how} TRIGGER {name}")
