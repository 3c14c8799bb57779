"""The projections a second time, in the schema `rebuilding`: empty tables, into which events are folded, and whose rows
are then held against those that are read. What is not the same is noted by its key (`wrong_*`)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import asyncpg

from services.ledger.event_pages import Span, of_control, of_span
from services.ledger.processes import Tell
from services.ledger.projections import TABLES, project
from services.ledger.projections.control import project_all
from services.ledger.projections.rows import Table, Tables, fold
from services.ledger.sessions import Connection, write_as_ledger
from services.ledger.upsert import write
from shared.events.registry import EVENTS

TIMEOUT_S = 3600.0
# A table's rows are written once so many are at hand: until then a row takes what comes, and is written once for all.
ROWS = 10_000


async def make(connection: Connection) -> None:
    """As the owner, in the place of what an earlier one has left."""
    await drop(connection)
    for table in TABLES:
        key = ", ".join(table.key)
        await connection.execute(
            f"CREATE UNLOGGED TABLE rebuilding.{table.name} (LIKE public.{table.name} INCLUDING DEFAULTS INCLUDING "
            f"GENERATED, PRIMARY KEY ({key}))"
        )
        await connection.execute(
            f"CREATE UNLOGGED TABLE rebuilding.wrong_{table.name} AS SELECT {key} FROM public.{table.name} WITH NO DATA"
        )
        await connection.execute(f"GRANT SELECT, INSERT, UPDATE ON rebuilding.{table.name} TO skeldir_ledger")
        await connection.execute(f"GRANT SELECT, INSERT ON rebuilding.wrong_{table.name} TO skeldir_ledger")


async def drop(connection: Connection) -> None:
    """As the owner."""
    names = (f"rebuilding.{name}" for table in TABLES for name in (table.name, f"wrong_{table.name}"))
    await connection.execute(f"DROP TABLE IF EXISTS {', '.join(names)}")


async def fold_span(database_url: str, span: Span, tell: Tell) -> int:
    """Fold these events into the tables beside; how many they were. Spans may be folded in any order, and side by side.

    Rows are written as they come, statement by statement: no transaction holds a row that another span has, too.
    """
    reading, writing = [await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S) for _ in range(2)]
    count = 0
    try:
        await writing.execute("SET ROLE skeldir_ledger; SET search_path = rebuilding, public; SET work_mem = '64MB'")
        tables: Tables = {}
        async with reading.transaction(readonly=True):
            await write_as_ledger(reading)
            async for page in of_span(reading, span):
                fold((patch for body in page for patch in project(EVENTS.decode(body))), tables)
                await write(writing, {name: tables.pop(name) for name in list(tables) if len(tables[name]) >= ROWS})
                count += len(page)
        await write(writing, tables)
    finally:
        await reading.close()
        await writing.close()
    tell(span.upto - span.after)
    return count


async def fold_rest(connection: Connection, rest: Iterable[Span]) -> int:
    """Fold these events, within the caller's transaction; how many they were."""
    count, tables = 0, Tables()
    for span in rest:
        async for page in of_span(connection, span):
            fold((patch for body in page for patch in project(EVENTS.decode(body))), tables)
            count += len(page)
    await _write(connection, tables)
    return count


async def fold_orders(connection: Connection) -> int:
    """Fold the control stream, which has an order and is short; as `fold_rest`. Once more changes nothing."""
    orders = await of_control(connection)
    await _write(connection, fold(project_all(orders)))
    return len(orders)


async def _write(connection: Connection, tables: Tables) -> None:
    await connection.execute("SET LOCAL search_path = rebuilding, public")
    await write(connection, tables)
    await connection.execute("SET LOCAL search_path = public")


async def compare(connection: Connection) -> dict[str, int]:
    """Note the rows that are not as those beside, in either; how many, by table. Within the caller's transaction."""
    await connection.execute("SET LOCAL work_mem = '256MB'")
    done = {table.name: await connection.execute(_comparison(table.name)) for table in TABLES}
    return {name: int(said.rpartition(" ")[2]) for name, said in done.items()}


async def replace(connection: Connection, table: Table) -> tuple[int, int]:
    """Make the noted rows those beside; how many there were too many, and how many were written."""
    name = table.name
    noted, same = _same(table, "wrong", "new"), _same(table, "wrong", "old")
    gone = await connection.execute(
        f"DELETE FROM public.{name} AS old USING rebuilding.wrong_{name} AS wrong WHERE {same} "
        f"AND NOT EXISTS (SELECT FROM rebuilding.{name} AS new WHERE {noted})"
    )
    columns = list(table.columns)
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in table.key)
    written = await connection.execute(
        f"INSERT INTO public.{name} ({', '.join(columns)}) SELECT {_list(columns, 'new')} "
        f"FROM rebuilding.wrong_{name} AS wrong JOIN rebuilding.{name} AS new ON {noted} "
        f"LEFT JOIN public.{name} AS old ON {same} "
        f"WHERE old.{columns[0]} IS NULL OR ROW({_list(columns, 'old')}) IS DISTINCT FROM ROW({_list(columns, 'new')}) "
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"
    )
    return int(gone.rpartition(" ")[2]), int(written.rpartition(" ")[2])


@cache
def _comparison(name: str) -> str:
    table = next(one for one in TABLES if one.name == name)
    columns, first = list(table.columns), next(iter(table.key))
    keys = ", ".join(f"coalesce(new.{key}, old.{key})" for key in table.key)
    return (
        f"INSERT INTO rebuilding.wrong_{name} SELECT {keys} FROM rebuilding.{name} AS new "
        f"FULL JOIN public.{name} AS old ON {_same(table, 'new', 'old')} "
        f"WHERE new.{first} IS NULL OR old.{first} IS NULL "
        f"OR ROW({_list(columns, 'old')}) IS DISTINCT FROM ROW({_list(columns, 'new')})"
    )


def _same(table: Table, left: str, right: str) -> str:
    return " AND ".join(f"{left}.{key} = {right}.{key}" for key in table.key)


def _list(columns: Iterable[str], side: str) -> str:
    return ", ".join(f"{side}.{column}" for column in columns)
