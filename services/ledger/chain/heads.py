"""The ends of the chains: locked, moved and sealed, within the transaction that appends the rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger import months
from services.ledger.chain.link import start
from services.ledger.chain.seal import Seal, key_id, sign
from services.ledger.sessions import Connection, write_as_ledger

# An event that comes again has the same id; the time is another one where a service that had forgotten made it anew
# (its log was restored from a backup). So far apart such two are recognised: nobody looks through the months before.
SAME_EVENT = timedelta(days=7)
HELD_TIMEOUT_S = 3600.0

# Locked until the commit: whoever appends to a chain does so one after the other.
_LOCK = f"""
SELECT length, head,
  ARRAY(SELECT id FROM events WHERE id = ANY ($2::uuid[]) AND time >= $3 AND time <= $4) AS known,
  {months.MISSING.format(months="$5")} AS missing
FROM event_chains WHERE chain = $1 FOR UPDATE
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


async def lock(connection: Connection, chain: int, events: Mapping[UUID, datetime]) -> Head:
    """The chain's end, which nobody else moves until this transaction ends; the events' months are there then.

    `events`: the times of those that are to be appended, by their ids.
    """
    first, last = min(events.values()) - SAME_EVENT, max(events.values()) + SAME_EVENT
    asked = (chain, list(events), first, last, months.months_of(events.values()))
    row = await connection.fetchrow(_LOCK, *asked)
    if row is None:
        await connection.execute(_BEGIN, chain, start(chain))
        row = await connection.fetchrow(_LOCK, *asked)
    await months.make(connection, row["missing"])
    return Head(row["length"], row["head"], frozenset(row["known"]))


@asynccontextmanager
async def held(database_url: str) -> AsyncIterator[None]:
    """Nobody appends: who has begun is waited for, who comes waits. For a moment only; as the ledger's role."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=HELD_TIMEOUT_S)
    try:
        async with connection.transaction():
            await write_as_ledger(connection)
            for table in ("checkpoints", "event_chains"):  # in the order in which a commit takes them
                await connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


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
