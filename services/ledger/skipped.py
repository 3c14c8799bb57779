"""Entries that the ledger could not take into the books, taken in later: by a release that can read them."""

from __future__ import annotations

from typing import Any

import asyncpg

from services.ledger.books import take_in
from services.ledger.intake import Skip, read_event
from services.ledger.sessions import COMMAND_TIMEOUT_S, write_as_ledger


async def retry(database_url: str, stream: str, entry_id: str) -> str | None:
    """Take a skipped entry of a partition's stream in; what still keeps it out, or None. As the owner role.

    Raises LookupError where the ledger has skipped no such entry.
    """
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with connection.transaction():
            await write_as_ledger(connection)
            row = await connection.fetchrow(
                "SELECT type, data FROM skipped_entries WHERE stream = $1 AND entry_id = $2 FOR UPDATE",
                stream,
                entry_id,
            )
            if row is None:
                raise LookupError(f"the ledger has not skipped {entry_id} of {stream}")
            fields = {name: row[name.decode()] for name in (b"type", b"data") if row[name.decode()] is not None}
            partition = int(stream.partition("}")[0].rpartition(":")[2])
            found = read_event(partition, stream, (entry_id.encode(), fields))
            if isinstance(found, Skip):
                return found.reason
            await take_in(connection, [found])
            await connection.execute(
                "DELETE FROM skipped_entries WHERE stream = $1 AND entry_id = $2", stream, entry_id
            )
    finally:
        await connection.close()
    return None
