"""Rows of one chain, nearly in its order, put in order. Pure.

Rows are read by their number in the table (`seq`), in which those of a chain follow one another. But that number is not
in the hash: who tampers can give any. So a row that is ahead of its place waits, for a while, for those before it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from services.ledger.chain.walk import Broken, Walk

# So many rows may stand in front of one that belongs before them.
WINDOW = 5000

Row = Mapping[str, Any]


class InOrder:
    """Brings rows to their walk by their numbers in the chain."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._waiting: list[tuple[int, int, Row]] = []
        self._came = count()

    def take(self, rows: Sequence[Row]) -> Iterator[Broken]:
        """The next rows as they were read; what is wrong with those whose turn it is."""
        at = 0
        while at < len(rows):
            if not self._waiting:
                at += self._walk.follow(rows[at:] if at else rows)
            if at < len(rows):
                row, at = rows[at], at + 1
                heapq.heappush(self._waiting, (row["chain_no"], next(self._came), row))
                yield from self._ready()

    def rest(self) -> Iterator[Broken]:
        """There are no more rows: what is wrong with those that still wait."""
        while self._waiting:
            yield from self._next()

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return len(self._waiting)

    @property
    def waiting_from(self) -> int | None:
        """The smallest number in the table of the rows that wait."""
        return min((row["seq"] for _, _, row in self._waiting), default=None)

    def _ready(self) -> Iterator[Broken]:
        while self._waiting and (self._waiting[0][0] <= self._walk.length + 1 or len(self._waiting) > WINDOW):
            yield from self._next()

    def _next(self) -> Iterator[Broken]:
        return self._walk.take(heapq.heappop(self._waiting)[2])
