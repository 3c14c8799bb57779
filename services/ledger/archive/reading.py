"""Rows of an archive, file after file or merged, as those who read all events want them. Memory: pages of the files
that are read at a time, which are those of about one moment."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from datetime import date
from functools import lru_cache
from pathlib import Path
from uuid import UUID

from services.ledger.archive.parquet import ParquetFile, Place, Row, Unreadable, Wanted
from services.ledger.archive.record import Archive, ArchivedFile
from shared.control_state import order_of

OPEN = 32
"""So many files are kept open for whoever comes back to them."""
LOOKED_UP = 4
"""And of so many the ids are kept at hand."""


@lru_cache(maxsize=OPEN)
def opened(path: Path) -> ParquetFile:
    """A file of an archive. Raises Unreadable."""
    return ParquetFile(path)


def pages(archive: Archive, wanted: Wanted) -> Iterator[list[Row]]:
    """Those rows, month by month; each file in the order of the numbers. Raises Unreadable."""
    for one in sorted(archive.files, key=lambda one: (one.month, one.first_seq)):
        yield from opened(archive.path(one)).pages(wanted)


def in_log_order(archive: Archive, chains: Iterable[int], wanted: Wanted) -> Iterator[tuple[tuple[int, Place], Row]]:
    """Those rows, chain after chain, in the order of the log; with chain and place. Raises Unreadable."""
    for chain in sorted(set(chains)):
        for place, row in _merged(archive.of([chain]), wanted):
            yield (chain, place), row


def _merged(archive: Archive, wanted: Wanted) -> Iterator[tuple[Place, Row]]:
    """A file is opened when its first entry is near, and left at its end: of many months two or three are open."""
    waiting = sorted(archive.files, key=lambda one: order_of(one.first_entry), reverse=True)
    heads: list[tuple[Place, str, Row, Iterator[tuple[Place, Row]]]] = []

    def put(name: str, rows: Iterator[tuple[Place, Row]]) -> None:
        if (head := next(rows, None)) is not None:
            heapq.heappush(heads, (head[0], name, head[1], rows))

    while waiting or heads:
        while waiting and (not heads or order_of(waiting[-1].first_entry) <= heads[0][0]):
            one = waiting.pop()
            put(one.file, ParquetFile(archive.path(one)).in_log_order(wanted))
        if heads:
            place, name, row, rows = heapq.heappop(heads)
            yield place, row
            put(name, rows)


@lru_cache(maxsize=LOOKED_UP)
def _looked_up(path: Path) -> ParquetFile:
    return ParquetFile(path)


def by_ids(archive: Archive, ids: Collection[UUID], months: Collection[date] | None = None) -> dict[UUID, str]:
    """The bodies of the events with these ids, as far as they are there; in these months' files only."""
    found: dict[UUID, str] = {}
    for one in reversed(archive.files):
        if len(found) < len(ids) and (months is None or one.month in months):
            rows = _looked_up(archive.path(one)).by_ids(ids, ("id", "body"))
            found.update((row["id"], row["body"]) for row in rows)
    return found


class ByNumber:
    """The rows of all files forward by `seq`, for who reads the table so, too. A file that cannot be read is told, and
    its rows are not there."""

    def __init__(self, archive: Archive, after: int) -> None:
        self._archive = archive
        self._wanted = Wanted(after=after)
        self._waiting = sorted(archive.files, key=lambda one: one.first_seq, reverse=True)
        self._open: list[tuple[ArchivedFile, Iterator[list[Row]], deque[Row]]] = []
        self.problems: list[tuple[ArchivedFile, str]] = []

    def upto(self, number: int) -> list[Row]:
        """The next rows, up to this number."""
        while self._waiting and self._waiting[-1].first_seq <= number:
            one = self._waiting.pop()
            self._open.append((one, self._read(one), deque()))
        return [row for file in list(self._open) for row in self._take(file, number)]

    def rest(self) -> list[Row]:
        """What has a number that is not in its order, at the end."""
        return [row for _, pages, read in self._open for page in ([*read], *pages) for row in page]

    def _take(self, file: tuple[ArchivedFile, Iterator[list[Row]], deque[Row]], number: int) -> Iterator[Row]:
        _, pages, read = file
        while True:
            while read and read[0]["seq"] <= number:
                yield read.popleft()
            if read:
                return
            page = next(pages, None)
            if page is None:
                self._open.remove(file)
                return
            read.extend(page)

    def _read(self, one: ArchivedFile) -> Iterator[list[Row]]:
        try:
            yield from ParquetFile(self._archive.path(one)).pages(self._wanted)
        except Unreadable as error:
            self.problems.append((one, str(error)))
