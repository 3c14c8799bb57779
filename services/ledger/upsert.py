"""One statement a table that writes folded patches: what `projections/rows.py` says about merging, as SQL."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import orjson

from services.ledger.projections import TABLES, storable
from services.ledger.projections.rows import Kind, Register, Row, Table, Tables
from services.ledger.sessions import Connection
from shared.money import to_cents

_BY_NAME = {table.name: table for table in TABLES}
_ORDER = {table.name: at for at, table in enumerate(TABLES)}


async def write(connection: Connection, tables: Tables) -> None:
    """Upsert the folded rows. Tables and keys in one order for every writer, so that two never wait for each other."""
    for name in sorted(tables, key=_ORDER.__getitem__):
        rows = tables[name]
        if rows:
            ordered = [rows[key] for key in sorted(rows, key=_sortable)]
            await connection.execute(statement(name), *parameters(_BY_NAME[name], ordered))


@cache
def statement(name: str) -> str:
    """INSERT ... SELECT unnest(...) ON CONFLICT DO UPDATE for the table of that name."""
    table = _BY_NAME[name]
    columns, values, arrays = row_as_stored(table)
    names = ", ".join(columns)
    changes = ", ".join(_changes(table))
    return (
        f"INSERT INTO {name} AS old ({names}) SELECT {', '.join(values)} "
        f"FROM unnest({', '.join(arrays)}) AS new ({names}) "
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"
    )


def row_as_stored(table: Table) -> tuple[list[str], list[str], list[str]]:
    """The columns; what is stored in each for a row `new`; and the arrays of `parameters` that such rows come from."""
    columns = table.columns
    arrays = [f"${at}::{_sql_type(kind)}[]" for at, kind in enumerate(columns.values(), start=1)]
    return list(columns), [_value(table, column) for column in columns], arrays


def _value(table: Table, column: str) -> str:
    if table.sums.get(column) is Kind.BREAKDOWN:
        return f"add_breakdown(new.{column}, '{{}}')"
    default = table.defaults.get(column)
    return f"new.{column}" if default is None else f"coalesce(new.{column}, {default})"


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


def _sql_type(kind: Kind) -> str:
    return "jsonb" if kind is Kind.BREAKDOWN else kind.value


def parameters(table: Table, rows: list[Row]) -> list[list[Any]]:
    """The rows as arrays, one a column, as the driver sends them."""
    found = []
    for column, kind in table.columns.items():
        values = [row.get(column) for row in rows]
        if kind is Kind.MONEY:
            values = [None if value is None else to_cents(value) for value in values]
        elif kind is Kind.BREAKDOWN:
            values = [_breakdown(value) for value in values]
        found.append(values)
    return found


def _breakdown(value: dict[str, tuple[int, int]] | None) -> str:
    parts = [
        f'{orjson.dumps(storable.text(model)).decode()}:{{"calls":{calls},"cost_cents":{to_cents(cost):f}}}'
        for model, (calls, cost) in (value or {}).items()
    ]
    return "{" + ",".join(parts) + "}"


def _sortable(key: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(part) for part in key)
