"""What became of an order to erase a user's texts, and data keys under another master key. As the owner role."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger.sessions import Connection, write_as_ledger
from shared.texts.master_key import MasterKeys

TIMEOUT_S = 300.0
PAGE = 1000
# Tasks recorded while nothing was encrypted. A prompt that was not stored, or is empty, holds nothing.
_PLAIN = (
    "SELECT count(*) FROM events WHERE tenant_id = $1 AND user_id = $2 AND type = 'task.submitted' AND time <= $3 "
    """AND body NOT LIKE '%"$encrypted"%' AND body NOT LIKE '%"storage":"none"%' AND body NOT LIKE '%"prompt":{}%'"""
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """Keys destroyed by all erasures of this user, and tasks whose texts are in the books unencrypted.

    `archived`: tasks of anybody that are so in files of the archive.
    """

    keys: int
    unencrypted: int
    archived: int


async def erasure(database_url: str, order: UUID, tenant_id: UUID, user_id: UUID) -> Erasure | None:
    """What the order did; None while the ledger has not taken it in. Raises the driver's errors."""
    async with _as_ledger(database_url) as connection:
        at = await connection.fetchval("SELECT erased_at FROM data_keys WHERE id = $1", order)
        if at is None:
            return None
        keys = await connection.fetchval(
            "SELECT count(*) FROM data_keys WHERE tenant_id = $1 AND user_id = $2 AND wrapped IS NULL "
            "AND NOT EXISTS (SELECT FROM events WHERE events.id = data_keys.id)",
            tenant_id,
            user_id,
        )
        archived = await connection.fetchval("SELECT coalesce(sum(unencrypted), 0)::bigint FROM event_archives")
        return Erasure(keys, await connection.fetchval(_PLAIN, tenant_id, user_id, at), archived)


async def rewrap(database_url: str, masters: MasterKeys) -> int:
    """Put every data key under the current master key; how many were under another.

    Raises UnusableMasterKey, or the driver's errors; those of a finished page stay done.
    """
    count = 0
    while True:
        async with _as_ledger(database_url) as connection:
            rows = await connection.fetch(
                f"SELECT id, master_key, wrapped FROM data_keys WHERE master_key <> $1 LIMIT {PAGE} FOR UPDATE",
                masters.current,
            )
            keys = [masters.unwrap(row["id"], row["master_key"], row["wrapped"]) for row in rows]
            await connection.executemany(
                "UPDATE data_keys SET master_key = $2, wrapped = $3 WHERE id = $1",
                [(key.id, masters.current, masters.wrap(key)) for key in keys],
            )
        if not rows:
            return count
        count += len(rows)


@asynccontextmanager
async def _as_ledger(database_url: str) -> AsyncIterator[Connection]:
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction():
            await write_as_ledger(connection)
            yield connection
    finally:
        await connection.close()
