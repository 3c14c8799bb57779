"""The projections again, from the events alone, beside those that are read.

The events are folded into empty tables of the same names in the schema `rebuilding`, while writers and readers go on:
those that are there, then what came meanwhile, until little comes. Only then writers wait; the rest is folded, and rows
that are not as they should be are replaced, in one transaction. So readers see the old tables or the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from services.ledger import rollups
from services.ledger.projections import TABLES, project
from services.ledger.projections.control import project as project_order
from services.ledger.projections.rows import Patch, Table, fold
from services.ledger.sessions import Connection, write_as_ledger
from services.ledger.upsert import write
from shared.control_state import ControlState, evolve, order_of
from shared.events.control import parse_control
from shared.events.registry import EVENTS

PAGE = 2000
# Writers wait while this many events, at most, are folded; unless they are as quick as the fold.
REST = 5 * PAGE
ROUNDS = 20
TIMEOUT_S = 3600.0
LOCK = 0x536B656D

Progress = Callable[[int, int], None]
"""Told how many events were folded, of how many."""


class Busy(ValueError):
    """Another rebuild is under way."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How many events were read, how many rows each table has now, and how many of them were replaced or removed."""

    events: int
    rows: Mapping[str, int]
    changed: Mapping[str, int]


async def rebuild(database_url: str, progress: Progress | None = None) -> RebuildReport:
    """Make every projection the fold of the events. The URL is the owner's.

    Raises Busy, or the driver's errors; then the projections are as they were.
    """
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
            raise Busy("another rebuild is under way")
        await _make_beside(connection)
        folded = await _follow(connection, progress)
        async with connection.transaction():
            await write_as_ledger(connection)
            are_sound = not await rollups.differences(connection)
        async with connection.transaction():
            upto = await _hold_writers(connection)
            await write_as_ledger(connection)
            count = folded.events + await _fold(connection, folded.upto, upto)
            count += await _fold_orders(connection)
            changed = {table.name: await _replace(connection, table) for table in TABLES}
            if not are_sound or any(changed.values()):
                await rollups.sum_again(connection)
        async with connection.transaction():
            await write_as_ledger(connection)
            rows = {table.name: await connection.fetchval(f"SELECT count(*) FROM {table.name}") for table in TABLES}
        await _drop(connection)
    finally:
        await connection.close()
    return RebuildReport(count, rows, changed)


async def _make_beside(connection: Connection) -> None:
    async with connection.transaction():
        await _drop(connection)
        for table in TABLES:
            await connection.execute(
                f"CREATE UNLOGGED TABLE rebuilding.{table.name} "
                f"(LIKE public.{table.name} INCLUDING DEFAULTS INCLUDING GENERATED, "
                f"PRIMARY KEY ({', '.join(table.key)})) WITH (fillfactor = 50)"
            )
            await connection.execute(f"GRANT SELECT, INSERT, UPDATE ON rebuilding.{table.name} TO skeldir_ledger")


async def _drop(connection: Connection) -> None:
    await connection.execute(f"DROP TABLE IF EXISTS {', '.join(f'rebuilding.{table.name}' for table in TABLES)}")


@dataclass(frozen=True, slots=True)
class _Folded:
    upto: int
    events: int


async def _follow(connection: Connection, progress: Progress | None) -> _Folded:
    """Fold what is there, then what came meanwhile, until little comes. Nobody waits for more than a moment."""
    upto = events = 0
    for _ in range(ROUNDS):
        async with connection.transaction():
            end = await _hold_writers(connection)
        events += await _fold(connection, upto, end, progress)
        gained, upto = end - upto, end
        if gained <= REST:
            break
    return _Folded(upto, events)


async def _hold_writers(connection: Connection) -> int:
    """Writers wait until the transaction ends. Events up to this number are in the books, and later ones are not.

    Every commit of a writer begins with its checkpoint, and whatever appends moves a chain.
    """
    await connection.execute("LOCK TABLE checkpoints IN SHARE ROW EXCLUSIVE MODE")
    await connection.execute("LOCK TABLE event_chains IN SHARE ROW EXCLUSIVE MODE")
    last: int = await connection.fetchval("SELECT last_value FROM events_seq_seq")
    return last


async def _fold(connection: Connection, after: int, upto: int, progress: Progress | None = None) -> int:
    """Fold the partitions' events of these numbers into the tables beside; in any order, it gives the same."""
    count = 0
    for first in range(after, upto, PAGE):
        async with connection.transaction():
            await write_as_ledger(connection)
            await connection.execute("SET LOCAL search_path = rebuilding, public")
            bodies = await connection.fetch(
                "SELECT body FROM events WHERE partition IS NOT NULL AND seq > $1 AND seq <= $2",
                first,
                min(first + PAGE, upto),
            )
            await write(connection, fold(patch for row in bodies for patch in project(EVENTS.decode(row["body"]))))
        count += len(bodies)
        if progress is not None:
            progress(min(first + PAGE, upto), upto)
    return count


async def _fold_orders(connection: Connection) -> int:
    """Fold the control stream, which has an order and is short."""
    orders = await connection.fetch("SELECT entry_id, body FROM events WHERE partition IS NULL")
    await connection.execute("SET LOCAL search_path = rebuilding, public")
    await write(connection, fold(_orders(orders)))
    await connection.execute("SET LOCAL search_path = public")
    return len(orders)


async def _replace(connection: Connection, table: Table) -> int:
    """Make the table's rows those beside it; how many were not."""
    name, same = table.name, " AND ".join(f"old.{key} = new.{key}" for key in table.key)
    gone = await connection.execute(
        f"DELETE FROM public.{name} AS old WHERE NOT EXISTS (SELECT FROM rebuilding.{name} AS new WHERE {same})"
    )
    columns = list(table.columns)
    was, now = (", ".join(f"{side}.{column}" for column in columns) for side in ("old", "new"))
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in table.key)
    written = await connection.execute(
        f"INSERT INTO public.{name} ({', '.join(columns)}) SELECT {now} "
        f"FROM rebuilding.{name} AS new LEFT JOIN public.{name} AS old ON {same} "
        f"WHERE old.{columns[0]} IS NULL OR ROW({was}) IS DISTINCT FROM ROW({now}) "
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"
    )
    return int(gone.rpartition(" ")[2]) + int(written.rpartition(" ")[2])


def _orders(rows: Iterable[Mapping[str, Any]]) -> Iterable[Patch]:
    """The patches of the control stream's events, which have an order."""
    state = ControlState()
    for row in sorted(rows, key=lambda row: order_of(row["entry_id"])):
        order = parse_control(row["body"])
        yield from project_order(state, row["entry_id"], order)
        state = evolve(state, row["entry_id"], order)
