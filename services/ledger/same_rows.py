"""Are the tables what the events give, column for column? Folds the events again and compares, without writing.

A row is held against its table when no event has touched it for a while (`projections/at_rest.py`); one that is not
equal then waits for its next event. What is not equal at the end is folded once more from all events of its owner, and
that counts. So memory holds what was touched lately, and what is not finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol
from uuid import UUID

from services.ledger import event_pages
from services.ledger.event_pages import WHOLE, Share
from services.ledger.projections import TABLES, project
from services.ledger.projections.at_rest import Folding
from services.ledger.projections.control import KEYS, KILL_SWITCHES, LIMITS, project_all
from services.ledger.projections.rows import Key, Patch, Row, Table, Tables, fold
from services.ledger.sessions import Connection
from services.ledger.upsert import record, row_as_stored, rows_as_sent
from shared.events.envelope import Envelope
from shared.events.registry import EVENTS

PAGE = 2000
TURN = 20_000
"""How many rows are touched before those that were not come to rest."""
NO_ROW = "no row in the table"

Found = tuple[str, str]
Projection = Callable[[Envelope], Iterable[Patch]]
_OF_ORDERS = (KILL_SWITCHES, LIMITS, KEYS)
"""Written by orders alone; some of their rows are of no tenant."""


class EventReader(Protocol):
    """A check that reads events, of a share of the tenants: all of them, or those that it names the types of."""

    async def take(self, events: Sequence[Envelope]) -> None:
        """The next page."""

    async def finish(self) -> list[Found]:
        """What is wrong."""


async def differences(connection: Connection, share: Share = WHOLE) -> list[Found]:
    """Each row that is not what the events give: which, and in what columns. Within the caller's transaction."""
    reader = await every_row(connection, share)
    async for _, page in event_pages.of_share(connection, share):
        await reader.take([EVENTS.decode(body) for body in page])
    return await reader.finish()


async def every_row(connection: Connection, share: Share) -> SameRows:
    """A reader of all events, for all tables; orders are read here."""
    of_orders = fold(project_all(await event_pages.of_control(connection)))
    alone: Tables = {table.name: of_orders.pop(table.name, {}) for table in _OF_ORDERS}
    tenants = {row["tenant_id"] for rows in of_orders.values() for row in rows.values()}
    mine = await _of_share(connection, share, tenants)
    by_name = {table.name: table for table in TABLES}
    orders = [
        Patch(by_name[name], row)
        for name, rows in of_orders.items()
        for row in rows.values()
        if row["tenant_id"] in mine
    ]
    tables = [table for table in TABLES if table not in _OF_ORDERS]
    found = await _only_orders(connection, alone) if share.number == 0 else []
    return SameRows(connection, share, tables, project, orders=orders, found=found)


class SameRows:
    """Holds the rows of some tables against what is folded. `which`: SQL, the rows that are to be there."""

    def __init__(
        self,
        connection: Connection,
        share: Share,
        tables: Sequence[Table],
        projection: Projection,
        *,
        which: str = "true",
        orders: Sequence[Patch] = (),
        found: Sequence[Found] = (),
    ) -> None:
        self._connection = connection
        self._share = share
        self._tables = {table.name: table for table in tables}
        self._project = projection
        self._which = which
        self._orders = orders
        self._found = list(found)
        self._folding = Folding()
        self._folding.take(orders)
        self._there: Counter[str] = Counter()
        """How many rows of each table were found in it."""

    async def take(self, events: Sequence[Envelope]) -> None:
        """Fold a page of events; compare what has come to rest."""
        self._folding.take(patch for event in events for patch in self._project(event))
        if self._folding.size >= TURN:
            await self._rest()

    async def finish(self) -> list[Found]:
        """What is wrong, when there are no more events."""
        await self._rest()
        await self._rest()
        unequal = self._unequal()
        keys = set().union(*unequal.values())
        archived: Tables = {}
        for page in event_pages.archived_of(self._share.archive, unequal.keys()):
            fold(self._patches(page, keys), archived)
        for owner, keys in unequal.items():
            await self._fold_again(*owner, keys, archived)
        for name in self._tables:
            count = f"SELECT count(*) FROM {name} WHERE {self._share.condition} AND {self._which}"
            rows = await self._connection.fetchval(count)
            if rows != self._there[name]:
                self._found.append((name, f"{rows} rows, of which {self._there[name]} are from events"))
        return self._found

    async def _rest(self) -> None:
        for name, rows in self._folding.turn().items():
            unequal = {key for key, _, _ in await self._compared(name, rows)}
            for key, row in rows.items():
                if key in unequal:
                    self._folding.keep(name, key, row)
                else:
                    self._there[name] += 1

    def _unequal(self) -> dict[tuple[UUID, UUID | None], set[tuple[str, Key]]]:
        """The rows that are not as their last events make them, by their owners."""
        found: dict[tuple[UUID, UUID | None], set[tuple[str, Key]]] = {}
        for name, key, row in self._folding.kept():
            found.setdefault((row["tenant_id"], row.get("user_id")), set()).add((name, key))
        return found

    async def _fold_again(
        self, tenant_id: UUID, user_id: UUID | None, keys: set[tuple[str, Key]], archived: Tables
    ) -> None:
        """Some rows of an owner, from all of their events; those in the archive are folded."""
        tables: Tables = {}
        for name, key in keys:
            if (row := archived.get(name, {}).get(key)) is not None:
                tables.setdefault(name, {})[key] = row
        fold(self._only(keys, self._orders), tables)
        async for page in event_pages.of_owner(self._connection, tenant_id, user_id):
            fold(self._patches(page, keys), tables)
        for name, rows in tables.items():
            for _, subject, problem in await self._compared(name, rows):
                self._found.append((f"{name} {subject}", problem))
                self._there[name] += problem != NO_ROW

    def _patches(self, page: Sequence[str], keys: set[tuple[str, Key]]) -> Iterator[Patch]:
        return self._only(keys, (patch for body in page for patch in self._project(EVENTS.decode(body))))

    def _only(self, keys: set[tuple[str, Key]], patches: Iterable[Patch]) -> Iterator[Patch]:
        return (patch for patch in patches if (patch.table.name, patch.table.key_of(patch.row)) in keys)

    async def _compared(self, name: str, rows: dict[Key, Row]) -> list[tuple[Key, str, str]]:
        return await _compared(self._connection, self._tables[name], rows)


async def _only_orders(connection: Connection, tables: Tables) -> list[Found]:
    """What is wrong in tables that have no other events than orders."""
    found: list[Found] = []
    for table in _OF_ORDERS:
        wrong = await _compared(connection, table, tables[table.name])
        found += [(f"{table.name} {subject}", problem) for _, subject, problem in wrong]
        there = len(tables[table.name]) - sum(problem == NO_ROW for _, _, problem in wrong)
        rows = await connection.fetchval(f"SELECT count(*) FROM {table.name}")
        if rows != there:
            found.append((table.name, f"{rows} rows, of which {there} are from events"))
    return found


async def _of_share(connection: Connection, share: Share, tenants: Iterable[UUID]) -> set[UUID]:
    query = f"SELECT tenant_id FROM unnest($1::uuid[]) AS one (tenant_id) WHERE {share.condition}"
    return {row["tenant_id"] for row in await connection.fetch(query, list(tenants))}


async def _compared(connection: Connection, table: Table, rows: dict[Key, Row]) -> list[tuple[Key, str, str]]:
    """The rows that are not so in the table: key, key as text, and in what columns."""
    found: list[tuple[Key, str, str]] = []
    keys, values = list(rows), list(rows.values())
    for at in range(0, len(keys), PAGE):
        wrong: list[Any] = await connection.fetch(comparison(table), rows_as_sent(table, values[at : at + PAGE]))
        found += [(keys[at + row["number"] - 1], row["subject"], row["problem"]) for row in wrong]
    return found


def comparison(table: Table) -> str:
    """A query for the rows of the table that differ from those in its parameters."""
    same = " AND ".join(f"old.{key} = new.{key}" for key in table.key)
    differs = ", ".join(
        f"CASE WHEN old.{column} IS DISTINCT FROM {value} THEN '{column}' END"
        for column, value in row_as_stored(table).items()
        if column not in table.key
    )
    subject = ", ".join(f"new.{key}" for key in table.key)
    first = next(iter(table.key))
    return (
        f"SELECT * FROM (SELECT number, concat_ws(' ', {subject}) AS subject, "
        f"CASE WHEN old.{first} IS NULL THEN '{NO_ROW}' ELSE concat_ws(', ', {differs}) END AS problem "
        f"FROM ROWS FROM (json_to_recordset($1::json) AS ({record(table)})) "
        f"WITH ORDINALITY AS new ({', '.join(table.columns)}, number) "
        f"LEFT JOIN {table.name} AS old ON {same}) AS found WHERE problem <> ''"
    )
