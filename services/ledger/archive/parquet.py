"""The format of an archive's file: all columns of `events`, in the order of `seq`, in groups of rows.

The one place that knows the library, which comes with the extra `archive`. Memory: some groups; to read in the order of
the log, also the entry ids of one file (24 bytes a row), and to look up ids, those (16 bytes a row).
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import UUID

from services.ledger.archive.record import ArchiveProblem

GROUP = 2000
KEPT_GROUPS = 8
"""Streams are taken in side by side, each at its own pace: so the order of the log reads at a few places of a file."""

COLUMNS = (
    "seq", "id", "partition", "stream", "entry_id", "type", "version", "time", "tenant_id", "user_id", "subject",
    "correlation_id", "causation_id", "body", "chain_no", "chain_hash",
)  # fmt: skip
_IDS = ("id", "tenant_id", "user_id", "causation_id")
_FEW = ["stream", "type", "version", "partition", "tenant_id", "user_id"]  # values, which are stored once a group
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = Mapping[str, Any]
Place = tuple[int, int]
"""An entry id, as numbers."""


class Unreadable(ArchiveProblem):
    """A file of the archive is not what it should be."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Columns, of rows with such values; None: any. `after`, `upto`: by `seq`."""

    columns: tuple[str, ...] = COLUMNS
    types: frozenset[str] | None = None
    streams: frozenset[str] | None = None
    tenants: frozenset[UUID] | None = None
    after: int | None = None
    upto: int | None = None


def library() -> Any:
    """Raises ArchiveProblem where it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ArchiveProblem("archives need pyarrow, which is not installed: pip install 'skeldir[archive]'") from error
    return pyarrow


@cache
def _schema() -> Any:
    pa = library()
    kinds = {"seq": pa.int64(), "partition": pa.int32(), "version": pa.int32(), "chain_no": pa.int64()}
    kinds |= dict.fromkeys(_IDS, pa.uuid()) | {"time": pa.timestamp("us", "UTC"), "chain_hash": pa.binary(32)}
    return pa.schema([pa.field(name, kinds.get(name, pa.string())) for name in COLUMNS])


class Writer:
    """Writes a file that was not there; the same rows give the same bytes."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        options = {"compression": "zstd", "compression_level": 6, "use_dictionary": _FEW}
        self._writer = library().parquet.ParquetWriter(self._file, _schema(), **options)
        self._rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        """The next rows, by their numbers. Raises OSError."""
        self._rows += rows
        while len(self._rows) >= GROUP:
            self._write(self._rows[:GROUP])
            del self._rows[:GROUP]

    def close(self) -> None:
        """The rest; then it is on the disk. Raises OSError."""
        if self._rows:
            self._write(self._rows)
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, rows: Sequence[Row]) -> None:
        pa = library()
        arrays = [_array(pa, field, [row[field.name] for row in rows]) for field in _schema()]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=_schema()), row_group_size=GROUP)


def _array(pa: Any, field: Any, values: list[Any]) -> Any:
    if field.name not in _IDS:
        return pa.array(values, field.type)
    storage = pa.array([None if one is None else one.bytes for one in values], pa.binary(16))
    return pa.ExtensionArray.from_storage(field.type, storage)


class ParquetFile:
    """A file, opened. Raises Unreadable, here and wherever it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pa = library()
        with self._readable():
            self._file = self._pa.parquet.ParquetFile(path)
            if not self._file.schema_arrow.equals(_schema()):
                raise Unreadable(f"{path.name} has other columns than events")
        meta = self._file.metadata
        sizes = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
        self._starts = list(accumulate(sizes, initial=0))[:-1]
        self._groups: OrderedDict[tuple[int, tuple[str, ...]], list[Row]] = OrderedDict()

    def pages(self, wanted: Wanted) -> Iterator[list[Row]]:
        """Those rows, in the order of their numbers."""
        filters = _filters(wanted)
        for number in range(len(self._starts)):
            if not self._may_have(number, wanted):
                continue
            with self._readable():
                mask = self._mask(self._table(number, filters), wanted) if filters else None
                if mask is not None and not mask.true_count:
                    continue
                table = self._table(number, wanted.columns)
                page = _rows(self._pa, table if mask is None else table.filter(mask))
            yield page

    def in_log_order(self, wanted: Wanted) -> Iterator[tuple[Place, Row]]:
        """Those rows by their entry ids."""
        compute = self._pa.compute
        with self._readable():
            table = self._file.read(columns=["entry_id", *_filters(wanted)], use_threads=False)
            mask = self._mask(table, wanted)
            at = None if mask is None else compute.indices_nonzero(mask)
            entries = table["entry_id"] if at is None else table["entry_id"].take(at)
            parts = compute.split_pattern(entries, "-")
            names = ("ms", "count")
            columns = [compute.list_element(parts, one).cast(self._pa.int64()) for one in range(2)]
            places = self._pa.table(dict(zip(names, columns, strict=True)))
            del table, entries, parts, columns
            order = compute.sort_indices(places, sort_keys=[(name, "ascending") for name in names])
        for first in range(0, len(order), GROUP):
            with self._readable():
                page = order.slice(first, GROUP)
                keys = zip(*(places[name].take(page).to_pylist() for name in names), strict=True)
                rows = self._at((page if at is None else at.take(page)).to_pylist(), wanted.columns)
            yield from zip(keys, rows, strict=True)

    def by_ids(self, ids: Collection[UUID], columns: tuple[str, ...]) -> list[Row]:
        """The rows with these ids."""
        return self._look_up(self._ids, self._pa.array([one.bytes for one in ids], self._pa.binary(16)), columns)

    def by_chain_numbers(self, numbers: Collection[int], columns: tuple[str, ...]) -> list[Row]:
        """The rows at these places in the chain."""
        with self._readable():
            found = self._file.read(columns=["chain_no"], use_threads=False)["chain_no"]
        return self._look_up(found, self._pa.array(list(numbers), self._pa.int64()), columns)

    @cached_property
    def _ids(self) -> Any:
        with self._readable():
            return self._file.read(columns=["id"], use_threads=False)["id"].combine_chunks().storage

    def _look_up(self, column: Any, values: Any, columns: tuple[str, ...]) -> list[Row]:
        with self._readable():
            mask = self._pa.compute.is_in(column, value_set=values)
            return self._at(self._pa.compute.indices_nonzero(mask).to_pylist(), columns)

    def _at(self, places: Sequence[int], columns: tuple[str, ...]) -> list[Row]:
        found = []
        for place in places:
            number = bisect_right(self._starts, place) - 1
            found.append(self._group(number, columns)[place - self._starts[number]])
        return found

    def _group(self, number: int, columns: tuple[str, ...]) -> list[Row]:
        rows = self._groups.get((number, columns))
        if rows is None:
            rows = self._groups[number, columns] = _rows(self._pa, self._table(number, columns))
            if len(self._groups) > KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end((number, columns))
        return rows

    def _table(self, number: int, columns: Sequence[str]) -> Any:
        return self._file.read_row_group(number, columns=list(columns), use_threads=False)

    def _may_have(self, number: int, wanted: Wanted) -> bool:
        """By what the file says of a group's numbers."""
        if wanted.after is None and wanted.upto is None:
            return True
        said = self._file.metadata.row_group(number).column(COLUMNS.index("seq")).statistics
        if said is None or not said.has_min_max:
            return True
        above = wanted.after is None or said.max > wanted.after
        return bool(above and (wanted.upto is None or said.min <= wanted.upto))

    def _mask(self, table: Any, wanted: Wanted) -> Any:
        """Which rows of a table are wanted; None: all."""
        compute, pa, masks = self._pa.compute, self._pa, []
        for name, values in (("type", wanted.types), ("stream", wanted.streams)):
            if values is not None:
                masks.append(compute.is_in(table[name], value_set=pa.array(sorted(values), pa.string())))
        if wanted.tenants is not None:
            column = table["tenant_id"].combine_chunks().storage
            of = pa.array([one.bytes for one in wanted.tenants], pa.binary(16))
            masks.append(compute.is_in(column, value_set=of))
        if wanted.after is not None:
            masks.append(compute.greater(table["seq"], wanted.after))
        if wanted.upto is not None:
            masks.append(compute.less_equal(table["seq"], wanted.upto))
        found = None
        for mask in masks:
            flat = mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
            found = flat if found is None else compute.and_(found, flat)
        return found

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Unreadable:
            raise
        except (OSError, ValueError, KeyError, self._pa.lib.ArrowException) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Unreadable(f"{self._path.name} of the archive cannot be read: {said}") from error


def _filters(wanted: Wanted) -> list[str]:
    """The columns that say whether a row is wanted."""
    asked = {"type": wanted.types, "stream": wanted.streams, "tenant_id": wanted.tenants}
    found = [name for name, values in asked.items() if values is not None]
    return found if wanted.after is None and wanted.upto is None else [*found, "seq"]


def _rows(pa: Any, table: Any) -> list[Row]:
    names = table.column_names
    columns = (_values(pa, name, table[name]) for name in names)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(pa: Any, name: str, column: Any) -> list[Any]:
    if name in _IDS:
        found = column.combine_chunks().storage.to_pylist()
        return [None if one is None else UUID(bytes=one) for one in found]
    if name == "time":
        return [_EPOCH + timedelta(microseconds=one) for one in column.cast(pa.int64()).to_pylist()]
    values: list[Any] = column.to_pylist()
    return values
