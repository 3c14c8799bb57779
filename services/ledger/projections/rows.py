"""Patches, and how they merge: whatever the order and the repetition, the same rows.

A row's columns fall into groups, by how two writes of them merge:

    key        say which row it is
    constants  are the same in every event about the row; the first that is known stays
    registers  are written together; the write with the highest order (a version or a stamp) wins
    sums       add up; a patch is applied once only, because its event is stored once only
    earliest, latest   the minimum, the maximum

Each of these is commutative and associative, and all but sums are idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from shared.events.envelope import Envelope

Row = dict[str, Any]
Key = tuple[Any, ...]
Breakdown = dict[str, tuple[int, int]]
"""Model -> (calls, nanocents)."""


class Kind(StrEnum):
    """What a column holds, named by its PostgreSQL type."""

    UUID = "uuid"
    TEXT = "text"
    INTEGER = "integer"
    BIGINT = "bigint"
    BOOLEAN = "boolean"
    TIME = "timestamptz"
    DATE = "date"
    JSON = "jsonb"
    MONEY = "numeric"
    """Nanocents in memory, cents in the table."""
    BREAKDOWN = "jsonb breakdown"


@dataclass(frozen=True, slots=True)
class Register:
    """Columns that one kind of event writes together; `order` is the column that decides between two writes."""

    order: str
    columns: Mapping[str, Kind]
    order_kind: Kind = Kind.UUID


@dataclass(frozen=True)
class Table:
    """A projection: its columns and how they merge. `defaults` stand where no event has written a column yet."""

    name: str
    key: Mapping[str, Kind]
    constants: Mapping[str, Kind] = field(default_factory=dict)
    registers: tuple[Register, ...] = ()
    sums: Mapping[str, Kind] = field(default_factory=dict)
    earliest: Mapping[str, Kind] = field(default_factory=dict)
    latest: Mapping[str, Kind] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key_of(self) -> Callable[[Row], Key]:
        """Which row it is."""
        first, *others = self.key
        return itemgetter(first, *others) if others else lambda row: (row[first],)

    @cached_property
    def columns(self) -> dict[str, Kind]:
        """Every column that a patch may write, in one fixed order."""
        found = {**self.key, **self.constants}
        for register in self.registers:
            found[register.order] = register.order_kind
            found.update(register.columns)
        return {**found, **self.sums, **self.earliest, **self.latest}


class Patch(NamedTuple):
    """What one event says about one row: its key, and the columns of the groups that the event writes."""

    table: Table
    row: Row


Tables = dict[str, dict[Key, Row]]


def fold(patches: Iterable[Patch], into: Tables | None = None) -> Tables:
    """The rows that come of the patches, each with the columns that were written. No patch is changed."""
    tables: Tables = {} if into is None else into
    for table, row in patches:
        rows = tables.setdefault(table.name, {})
        key = table.key_of(row)
        before = rows.get(key)
        if before is None:
            rows[key] = row.copy()
        else:
            merge(table, before, row)
    return tables


def merge(table: Table, into: Row, row: Row) -> None:
    """Take another patch of the same row into it. Only what that patch writes is looked at: most write little."""
    for name in table.constants:
        if into.get(name) is None:
            into[name] = row.get(name)
    for register in table.registers:
        order = row.get(register.order)
        if order is not None:
            before = into.get(register.order)
            if before is None or order > before:
                into[register.order] = order
                for name in register.columns:
                    into[name] = row.get(name)
    for name, kind in table.sums.items():
        into[name] = _sum(kind, into.get(name), row.get(name))
    for name in table.earliest:
        before, now = into.get(name), row.get(name)
        if before is None or (now is not None and now < before):
            into[name] = now
    for name in table.latest:
        before, now = into.get(name), row.get(name)
        if before is None or (now is not None and now > before):
            into[name] = now


def stamp(event: Envelope, rank: int = 0) -> UUID:
    """Orders events: by rank, then by time, then by id. 16 bytes that PostgreSQL compares as Python does."""
    return order_stamp(int(event.time.timestamp() * 1000), event.id.int, rank)


def order_stamp(time_ms: int, low: int, rank: int = 0) -> UUID:
    """A stamp of one bit of rank, 47 bits of milliseconds, and the lowest 80 bits of `low`."""
    return UUID(int=(rank << 127) | ((time_ms & (2**47 - 1)) << 80) | (low & (2**80 - 1)))


def _sum(kind: Kind, left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    if kind is not Kind.BREAKDOWN:
        return left + right
    total: Breakdown = dict(left)
    for model, (calls, cost) in right.items():
        before = total.get(model, (0, 0))
        total[model] = (before[0] + calls, before[1] + cost)
    return total
