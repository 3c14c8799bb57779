"""The ends of the chains: locked, moved and sealed, within the transaction that appends the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.chain.link import start
from services.ledger.chain.seal import Seal, key_id, sign
from services.ledger.sessions import Connection

# Locked until the commit: whoever appends to a chain does so one after the other.
_LOCK = """
SELECT length, head, ARRAY(SELECT id FROM events WHERE id = ANY ($2::uuid[])) AS known FROM event_chains
WHERE chain = $1 FOR UPDATE
"""
_BEGIN = "INSERT INTO event_chains (chain, head) VALUES ($1, $2) ON CONFLICT (chain) DO NOTHING"
_UNSEALED = """
SELECT chain, unchained, length, head, now() AS sealed_at FROM event_chains AS c WHERE chain = $1 AND NOT EXISTS (
  SELECT FROM event_seals AS s WHERE s.chain = c.chain AND s.length = c.length AND s.key_id = $2) FOR UPDATE
"""
_SEAL = """
INSERT INTO event_seals (chain, unchained, length, head, sealed_at, key_id, signature)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (chain, length, key_id) DO NOTHING
"""


class Head(NamedTuple):
    """How long a chain is, its last hash, and which of the asked-for events are in the books already."""

    length: int
    hash: bytes
    known: frozenset[UUID]


async def lock(connection: Connection, chain: int, ids: Sequence[UUID]) -> Head:
    """The chain's end, which nobody else moves until this transaction ends."""
    row = await connection.fetchrow(_LOCK, chain, ids)
    if row is None:
        await connection.execute(_BEGIN, chain, start(chain))
        row = await connection.fetchrow(_LOCK, chain, ids)
    return Head(row["length"], row["head"], frozenset(row["known"]))


async def seal(connection: Connection, chain: int, key: Ed25519PrivateKey) -> Seal | None:
    """Sign the chain's end, unless that was done; what was signed. In a transaction of its own."""
    name = key_id(key.public_key())
    async with connection.transaction():
        row = await connection.fetchrow(_UNSEALED, chain, name)
        if row is None:
            return None
        made = Seal(**row)
        values = (made.chain, made.unchained, made.length, made.head, made.sealed_at)
        await connection.execute(_SEAL, *values, name, sign(key, made))
    return made
