"""One chain while the table is read: its rows come among those of others. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger.audit.order import InOrder
from services.ledger.chain.walk import Broken, Place, Signed, Walk, about, name_of


@dataclass(frozen=True, slots=True)
class End:
    """What the books say of a chain: how long it is, its last hash, and the rows from before it was begun."""

    length: int
    head: bytes
    unchained: int


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a chain was checked, for going on from there.

    `after`: the rows of the table with a greater number are to be read. Up to `seen` all were; of these only those that
    are not behind `place` count again. `rows`: how many were checked, of which `loose` have no place in the chain.
    """

    place: Place
    after: int = 0
    seen: int = 0
    rows: int = 0
    loose: int = 0


class Strand:
    """A chain's walk, with what is counted beside it. `end` None: the books know no such chain."""

    def __init__(
        self, chain: int, end: End | None, keys: Mapping[str, Ed25519PublicKey], mark: Mark | None = None
    ) -> None:
        self.chain = chain
        self.end = end
        self.walk = Walk(chain, keys, None if mark is None else mark.place)
        self._order = InOrder(self.walk)
        self._seen = 0 if mark is None else mark.seen
        self.rows = 0 if mark is None else mark.rows
        self.loose = 0 if mark is None else mark.loose

    def take(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Broken]:
        """What is wrong with the next rows that were read, or with those that waited for them."""
        if rows and rows[0]["seq"] <= self._seen:
            rows = [row for row in rows if row["seq"] > self._seen or (row["chain_no"] or 0) > self.walk.length]
        placed = [row for row in rows if row["chain_no"] is not None]
        self.rows += len(rows)
        self.loose += len(rows) - len(placed)
        return self._order.take(placed)

    def stray(self, row: Mapping[str, Any]) -> Iterator[Broken]:
        """A row whose number the table has never given: what reads by number would pass it over."""
        number = row["chain_no"]
        if not self._seen:
            subject = name_of(self.chain) if number is None else f"{name_of(self.chain)} row {number}"
            yield Broken(subject, f"{about(row)}: its number in the table, {row['seq']}, was never given")
        elif number is None or number <= self.walk.length:
            return  # it was walked
        yield from self.take([row])

    def mark(self, seen: int) -> Mark:
        """How far it came, when all rows of the table up to this number were read."""
        first = self._order.waiting_from
        after = seen if first is None else min(seen, first - 1)
        return Mark(self.walk.place, after, seen, self.rows - self._order.waiting, self.loose)

    def rest(self) -> Iterator[Broken]:
        """There are no more rows: what is wrong with those that waited for others."""
        return self._order.rest()

    def finish(self, last: Signed | None) -> Iterator[Broken]:
        """And with the chain's end; `last`: the last seal beyond it."""
        if self.end is None:
            yield Broken(name_of(self.chain), f"{self.rows} rows of a chain that was never begun")
        else:
            yield from self.walk.finish(self.end.unchained, self.loose, self.end.length, self.end.head, last)
