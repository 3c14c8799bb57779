"""One statement a table that writes folded patches: what `projections/rows.py` says about merging, as SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import orjson

from services.ledger.projections import TABLES, storable
from services.ledger.projections.rows import Kind, Register, Row, Table, Tables
from services.ledger.sessions import Connection
from shared.money import to_cents

_BY_NAME = {table.name: table for table in TABLES}
CENTS = "0.000000001"
"""Of a nanocent; PostgreSQL multiplies `numeric` exactly."""
_ORDER = {table.name: at for at, table in enumerate(TABLES)}


async def write(connection: Connection, tables: Tables) -> None:
    """Upsert the folded rows. Tables and keys in one order for every writer, so that two never wait for each other."""
    for name in sorted(tables, key=_ORDER.__getitem__):
        rows = tables[name]
        if rows:
            ordered = [rows[key] for key in sorted(rows, key=_sortable)]
            await connection.execute(statement(name), rows_as_sent(_BY_NAME[name], ordered))


@cache
def statement(name: str) -> str:
    """INSERT ... SELECT ... ON CONFLICT DO UPDATE for the table of that name."""
    table = _BY_NAME[name]
    values = row_as_stored(table)
    changes = ", ".join(_changes(table))
    return (
        f"INSERT INTO {name} AS old ({', '.join(values)}) SELECT {', '.join(values.values())} "
        f"FROM json_to_recordset($1::json) AS new ({record(table)}) "
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"
    )


def row_as_stored(table: Table) -> dict[str, str]:
    """The columns, and what is stored in each for a row `new`."""
    return {column: _value(table, column, kind) for column, kind in table.columns.items()}


def record(table: Table) -> str:
    """The columns of `rows_as_sent`, with their types."""
    return ", ".join(f"{column} {_sent_as(table, column, kind)}" for column, kind in table.columns.items())


def _value(table: Table, column: str, kind: Kind) -> str:
    sent = f"new.{column}"
    if kind in (Kind.JSON, Kind.BREAKDOWN):
        sent += "::jsonb"
    elif kind is Kind.MONEY and column not in table.sums:
        sent = f"trim_scale({sent} * {CENTS})"
    default = table.defaults.get(column)
    return sent if default is None else f"coalesce({sent}, {default})"


def _changes(table: Table) -> Iterable[str]:
    for column in table.constants:
        yield f"{column} = coalesce(old.{column}, excluded.{column})"
    for register in table.registers:
        yield from _register_changes(register)
    for column, kind in table.sums.items():
        if kind is Kind.BREAKDOWN:
            yield f"{column} = add_breakdown(old.{column}, excluded.{column})"
        elif kind is Kind.MONEY:
            yield f"{column} = trim_scale(old.{column} + excluded.{column})"
        else:
            yield f"{column} = old.{column} + excluded.{column}"
    for column in table.earliest:
        yield f"{column} = least(old.{column}, excluded.{column})"
    for column in table.latest:
        yield f"{column} = greatest(old.{column}, excluded.{column})"


def _register_changes(register: Register) -> Iterable[str]:
    order = register.order
    wins = f"excluded.{order} IS NOT NULL AND (old.{order} IS NULL OR excluded.{order} > old.{order})"
    for column in (order, *register.columns):
        yield f"{column} = CASE WHEN {wins} THEN excluded.{column} ELSE old.{column} END"


def _sent_as(table: Table, column: str, kind: Kind) -> str:
    if kind in (Kind.JSON, Kind.BREAKDOWN):
        return "text"
    return "bigint" if kind is Kind.MONEY and column not in table.sums else kind.value


def rows_as_sent(table: Table, rows: list[Row]) -> str:
    """The rows as one JSON text. An amount of an event is an integer of nanocents; a sum, which may be beyond 64 bits,
    a decimal number of cents.

    Not as arrays, one a column: of each value in them the driver asks, in Python, whether it is an array itself, which
    takes longer than all the rest of it.
    """
    of_sums = {name: _AS_SENT[kind] for name, kind in table.sums.items() if kind in _AS_SENT}
    if of_sums:
        rows = [{**row, **{name: sent(row.get(name)) for name, sent in of_sums.items()}} for row in rows]
    return orjson.dumps(rows).decode()


def _cents(value: int | None) -> str | None:
    return None if value is None else f"{to_cents(value):f}"


def _breakdown(value: dict[str, tuple[int, int]] | None) -> str:
    parts = [
        f'{orjson.dumps(storable.text(model)).decode()}:{{"calls":{calls},"cost_cents":{to_cents(cost):f}}}'
        for model, (calls, cost) in (value or {}).items()
    ]
    return "{" + ",".join(parts) + "}"


_AS_SENT: dict[Kind, Callable[[Any], str | None]] = {Kind.MONEY: _cents, Kind.BREAKDOWN: _breakdown}


def _sortable(key: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(part) for part in key)
