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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
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


@dataclass(frozen=True, slots=True)
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

    @property
    def columns(self) -> dict[str, Kind]:
        """Every column that a patch may write, in one fixed order."""
        found = {**self.key, **self.constants}
        for register in self.registers:
            found[register.order] = register.order_kind
            found.update(register.columns)
        return {**found, **self.sums, **self.earliest, **self.latest}


@dataclass(frozen=True, slots=True)
class Patch:
    """What one event says about one row: its key, and the columns of the groups that the event writes."""

    table: Table
    row: Row

    @property
    def key(self) -> Key:
        return tuple(self.row[name] for name in self.table.key)


Tables = dict[str, dict[Key, Patch]]


def fold(patches: Iterable[Patch], into: Tables | None = None) -> Tables:
    """The rows that come of the patches: one merged patch a row."""
    tables: Tables = {} if into is None else into
    for patch in patches:
        rows = tables.setdefault(patch.table.name, {})
        before = rows.get(patch.key)
        rows[patch.key] = patch if before is None else Patch(patch.table, merge(patch.table, before.row, patch.row))
    return tables


def merge(table: Table, left: Row, right: Row) -> Row:
    """Two patches of one row as one."""
    merged = {name: left[name] for name in table.key}
    for name in table.constants:
        merged[name] = right.get(name) if left.get(name) is None else left[name]
    for register in table.registers:
        winner = right if _later(left.get(register.order), right.get(register.order)) else left
        for name in (register.order, *register.columns):
            merged[name] = winner.get(name)
    for name, kind in table.sums.items():
        merged[name] = _sum(kind, left.get(name), right.get(name))
    for name in table.earliest:
        merged[name] = min((row[name] for row in (left, right) if row.get(name) is not None), default=None)
    for name in table.latest:
        merged[name] = max((row[name] for row in (left, right) if row.get(name) is not None), default=None)
    return merged


def stamp(event: Envelope, rank: int = 0) -> UUID:
    """Orders events: by rank, then by time, then by id. 16 bytes that PostgreSQL compares as Python does."""
    return order_stamp(int(event.time.timestamp() * 1000), event.id.int, rank)


def order_stamp(time_ms: int, low: int, rank: int = 0) -> UUID:
    """A stamp of one bit of rank, 47 bits of milliseconds, and the lowest 80 bits of `low`."""
    return UUID(int=(rank << 127) | ((time_ms & (2**47 - 1)) << 80) | (low & (2**80 - 1)))


def _later(left: Any, right: Any) -> bool:
    return right is not None and (left is None or right > left)


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
