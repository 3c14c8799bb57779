"""Walking a chain: rows in order in, what is wrong out. Pure.

A row is held against the hash that stands at the row before it, not against the one that should: so one changed row is
one finding, and not all that follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger.chain.link import CONTROL_CHAIN, link, of_row, start
from services.ledger.chain.seal import Seal, is_signed


class Broken(NamedTuple):
    """What it is about, and what is wrong with it."""

    subject: str
    problem: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A seal as it is stored. `key_id` names the key; its signature may be anything."""

    seal: Seal
    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """How far a walk came: the last row's number and hash (None: what stood there is gone).

    `sealed`: up to which row a signature that was checked covers the chain. `unchecked`: seals of keys not at hand.
    """

    length: int
    hash: bytes | None
    sealed: int = 0
    unchecked: int = 0


class Walk:
    """One chain, from its start, or from the place where a walk of before was left."""

    def __init__(self, chain: int, keys: Mapping[str, Ed25519PublicKey], place: Place | None = None) -> None:
        self._name = name_of(chain)
        self._keys = keys
        self._seals: dict[int, Signed] = {}
        place = place or Place(0, start(chain))
        self._hash = place.hash
        self.length, self.sealed, self.unchecked = place.length, place.sealed, place.unchecked

    @property
    def place(self) -> Place:
        """Where the walk is."""
        return Place(self.length, self._hash, self.sealed, self.unchecked)

    def expect(self, signed: Signed) -> None:
        """A seal of a row that is still to come."""
        length = signed.seal.length
        # Of several keys' seals at one place those count whose key is at hand.
        if length > self.length and (length not in self._seals or signed.key_id in self._keys):
            self._seals[length] = signed

    def follow(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Take the first of these rows as long as nothing is to be said of them; how many those are."""
        if self._hash is None:
            return 0
        for count, row in enumerate(rows):
            number = self.length + 1
            if row["chain_no"] != number or number in self._seals:
                return count
            stored = row["chain_hash"]
            if link(self._hash, of_row(row)) != stored:
                return count
            self.length, self._hash = number, stored
        return len(rows)

    def take(self, row: Mapping[str, Any]) -> Iterator[Broken]:
        """What is wrong with the next row, by its number in the chain."""
        number, stored = row["chain_no"], bytes(row["chain_hash"] or b"")
        if number <= self.length:
            yield self._row(row, f"a second row {number}: it was inserted, or put in another place")
            return
        if number > self.length + 1:
            missing = (
                f"row {self.length + 1} is"
                if number == self.length + 2
                else f"rows {self.length + 1} to {number - 1} are"
            )
            yield Broken(f"{self._name} row {self.length + 1}", f"{missing} missing before {about(row)}")
            self._hash = None  # what it followed is gone
        self.length = number
        if self._hash is not None and link(self._hash, of_row(row)) != stored:
            yield self._row(row, "its hash is not that of its content and the row before it: it was changed or moved")
        self._hash = stored
        if number in self._seals:
            yield from self._at_seal(self._seals.pop(number), stored)

    def finish(
        self, unchained: int, found_unchained: int, length: int, head: bytes, last: Signed | None
    ) -> Iterator[Broken]:
        """The chain has come to its end; the books say how long it is, and how many rows were there before it.

        `last`: the last seal of a row beyond the end.
        """
        if found_unchained != unchained:
            problem = f"{found_unchained} rows without a place in the chain, {unchained} from before it was begun"
            yield Broken(self._name, problem)
        if last is not None:
            yield from self._at_seal(last, None)
            at = last.seal.sealed_at.isoformat()
            problem = f"{last.seal.length} rows were there when it was sealed on {at}, and {self.length} are left"
            yield Broken(f"{self._name} row {self.length + 1} to {last.seal.length}", problem)
        elif self._hash is not None and (length, head) != (self.length, self._hash):
            problem = f"its end was row {length}, by the books, and is row {self.length}, or another one"
            yield Broken(f"{self._name} row {self.length}", problem)

    def _at_seal(self, signed: Signed, stored: bytes | None) -> Iterator[Broken]:
        seal = signed.seal
        subject = f"{self._name} seal of row {seal.length}"
        key = self._keys.get(signed.key_id)
        if key is None:
            self.unchecked += 1
        elif not is_signed(key, seal, signed.signature):
            yield Broken(subject, "its signature is not that of its content")
        elif stored is not None:
            self.sealed = seal.length
        if stored is not None and seal.head != stored:
            yield Broken(subject, f"the rows up to here are not those that were sealed on {seal.sealed_at.isoformat()}")

    def _row(self, row: Mapping[str, Any], problem: str) -> Broken:
        return Broken(f"{self._name} row {row['chain_no']}", f"{about(row)}: {problem}")


def name_of(chain: int) -> str:
    """What a chain is called."""
    return "control" if chain == CONTROL_CHAIN else f"partition {chain}"


def about(row: Mapping[str, Any]) -> str:
    """An event, so that a person finds it."""
    return f"{row['type']} {row['id']} ({row['stream']} {row['entry_id']})"
