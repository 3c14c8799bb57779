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


class Walk:
    """One chain, from its start."""

    def __init__(self, chain: int, seals: Sequence[Signed], keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._chain = chain
        self._name = "control" if chain == CONTROL_CHAIN else f"partition {chain}"
        self._keys = keys
        # Of several keys' seals at one place those count whose key is at hand.
        known_last = sorted(seals, key=lambda one: one.key_id in keys)
        self._seals = {one.seal.length: one for one in known_last}
        self._hash: bytes | None = start(chain)
        self.length = 0
        self.sealed = 0
        """Up to which row a signature that was checked covers the chain."""
        self.unchecked = 0
        """Seals of keys that are not at hand."""

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
            yield Broken(f"{self._name} row {self.length + 1}", f"{missing} missing before {_about(row)}")
            self._hash = None  # what it followed is gone
        self.length = number
        if self._hash is not None and link(self._hash, of_row(row)) != stored:
            yield self._row(row, "its hash is not that of its content and the row before it: it was changed or moved")
        self._hash = stored
        if number in self._seals:
            yield from self._at_seal(self._seals.pop(number), stored)

    def finish(self, unchained: int, found_unchained: int, length: int, head: bytes) -> Iterator[Broken]:
        """The chain has come to its end; the books say how long it is, and how many rows were there before it."""
        if found_unchained != unchained:
            problem = f"{found_unchained} rows without a place in the chain, {unchained} from before it was begun"
            yield Broken(self._name, problem)
        beyond = [one for one in self._seals.values() if one.seal.length > self.length]
        if beyond:
            last = max(beyond, key=lambda one: one.seal.length)
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
        return Broken(f"{self._name} row {row['chain_no']}", f"{_about(row)}: {problem}")


def _about(row: Mapping[str, Any]) -> str:
    return f"{row['type']} {row['id']} ({row['stream']} {row['entry_id']})"
