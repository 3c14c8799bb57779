"""The projections again, from the events alone. Readers see the old rows until the new ones are complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from services.ledger.projections import TABLES, project
from services.ledger.projections.control import project as project_order
from services.ledger.projections.rows import Patch, Tables, fold
from services.ledger.rollups import ROLLUPS
from services.ledger.sessions import write_as_ledger
from services.ledger.upsert import write
from shared.control_state import ControlState, evolve, order_of
from shared.events.control import parse_control
from shared.events.registry import EVENTS

PAGE = 2000
TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How many events were read, and how many rows each table has now."""

    events: int
    rows: Mapping[str, int]


async def rebuild(database_url: str) -> RebuildReport:
    """Replace every projection by the fold of the events, in one transaction. The URL is the ledger's, or the owner's.

    Writers wait meanwhile. Raises the driver's errors; then nothing has changed.
    """
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction():
            await write_as_ledger(connection)
            # Every commit of a writer begins with its checkpoint, so writers wait here; readers do not.
            await connection.execute("LOCK TABLE checkpoints IN SHARE ROW EXCLUSIVE MODE")
            # The rollups follow the calls by themselves.
            for name in (*(table.name for table in TABLES), *(rollup.name for rollup in ROLLUPS)):
                await connection.execute(f"DELETE FROM {name}")
            count = await _replay(connection)
            rows = {table.name: await connection.fetchval(f"SELECT count(*) FROM {table.name}") for table in TABLES}
    finally:
        await connection.close()
    return RebuildReport(count, rows)


async def _replay(connection: Any) -> int:
    orders = await connection.fetch("SELECT entry_id, body FROM events WHERE partition IS NULL")
    await write(connection, fold(_orders(orders)))
    count = len(orders)
    cursor = await connection.cursor("SELECT body FROM events WHERE partition IS NOT NULL ORDER BY seq")
    while page := await cursor.fetch(PAGE):
        tables: Tables = fold(patch for row in page for patch in project(EVENTS.decode(row["body"])))
        await write(connection, tables)
        count += len(page)
    return count


def _orders(rows: Iterable[Mapping[str, Any]]) -> Iterable[Patch]:
    """The patches of the control stream's events, which have an order."""
    state = ControlState()
    for row in sorted(rows, key=lambda row: order_of(row["entry_id"])):
        order = parse_control(row["body"])
        yield from project_order(state, row["entry_id"], order)
        state = evolve(state, row["entry_id"], order)
