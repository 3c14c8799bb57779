"""Are the tables what the events give, column for column? Folds the events again and compares, without writing.

Rows of a task are folded task by task (`events_by_subject`), so memory holds a page of tasks. Rows of users and windows
are folded over all events: one for each user and window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from services.ledger.projections import TABLES, project
from services.ledger.projections.calls import CALLS
from services.ledger.projections.control import project as project_order
from services.ledger.projections.materialisations import BUDGET_JOBS, INVESTIGATIONS
from services.ledger.projections.reservations import RESERVATIONS
from services.ledger.projections.rows import Patch, Tables, fold
from services.ledger.sessions import Connection
from services.ledger.upsert import parameters, row_as_stored
from shared.control_state import ControlState, evolve, order_of
from shared.events.control import parse_control
from shared.events.registry import EVENTS

TASK_TABLES = (CALLS, RESERVATIONS, INVESTIGATIONS, BUDGET_JOBS)
PAGE = 2000

Found = tuple[str, str]

_BY_TASK = "SELECT subject, body FROM events WHERE partition IS NOT NULL ORDER BY tenant_id, subject"


async def differences(connection: Connection) -> list[Found]:
    """Each row that is not what the events give: which, and in what columns."""
    found: list[Found] = []
    counts = dict.fromkeys((table.name for table in TABLES), 0)
    of_users: Tables = {}
    orders = await connection.fetch("SELECT entry_id, body FROM events WHERE partition IS NULL")
    fold(_orders(orders), of_users)
    of_tasks: Tables = {}
    cursor = await connection.cursor(_BY_TASK)
    last: str | None = None
    while page := await cursor.fetch(PAGE):
        for row in page:
            if row["subject"] != last:
                if sum(map(len, of_tasks.values())) >= PAGE:
                    found += await _compared(connection, of_tasks, counts)
                    of_tasks = {}
                last = row["subject"]
            patches = project(EVENTS.decode(row["body"]))
            fold((one for one in patches if one.table in TASK_TABLES), of_tasks)
            fold((one for one in patches if one.table not in TASK_TABLES), of_users)
    found += await _compared(connection, of_tasks, counts)
    found += await _compared(connection, of_users, counts)
    for table in TABLES:
        rows = await connection.fetchval(f"SELECT count(*) FROM {table.name}")
        missing = sum(name == table.name and problem == NO_ROW for name, problem in _problems(found))
        if rows != counts[table.name] - missing:
            found.append((table.name, f"{rows} rows, of which {counts[table.name] - missing} are from events"))
    return found


NO_ROW = "no row in the table"


def _problems(found: Iterable[Found]) -> Iterator[tuple[str, str]]:
    for subject, problem in found:
        yield subject.partition(" ")[0], problem


async def _compared(connection: Connection, tables: Tables, counts: dict[str, int]) -> list[Found]:
    found: list[Found] = []
    for table in TABLES:
        patches = list(tables.get(table.name, {}).values())
        counts[table.name] += len(patches)
        for at in range(0, len(patches), PAGE):
            rows = await connection.fetch(comparison(table.name), *parameters(table, patches[at : at + PAGE]))
            found += [(f"{table.name} {row['subject']}", row["problem"]) for row in rows]
    return found


@cache
def comparison(name: str) -> str:
    """A query for the rows of the table of that name that differ from those in its parameters."""
    table = next(table for table in TABLES if table.name == name)
    names, values, arrays = row_as_stored(table)
    same = " AND ".join(f"old.{key} = new.{key}" for key in table.key)
    differs = ", ".join(
        f"CASE WHEN old.{column} IS DISTINCT FROM {value} THEN '{column}' END"
        for column, value in zip(names, values, strict=True)
        if column not in table.key
    )
    subject = ", ".join(f"new.{key}" for key in table.key)
    first = next(iter(table.key))
    return (
        f"SELECT * FROM (SELECT concat_ws(' ', {subject}) AS subject, "
        f"CASE WHEN old.{first} IS NULL THEN '{NO_ROW}' ELSE concat_ws(', ', {differs}) END AS problem "
        f"FROM unnest({', '.join(arrays)}) AS new ({', '.join(names)}) LEFT JOIN {name} AS old ON {same}) AS found "
        "WHERE problem <> ''"
    )


def _orders(rows: Iterable[Any]) -> Iterator[Patch]:
    state = ControlState()
    for row in sorted(rows, key=lambda row: order_of(row["entry_id"])):
        order = parse_control(row["body"])
        yield from project_order(state, row["entry_id"], order)
        state = evolve(state, row["entry_id"], order)
