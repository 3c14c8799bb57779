"""What waits for webhooks and what was given up, for the command line: as the owner role, with the ledger's eyes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from services.ledger.sessions import COMMAND_TIMEOUT_S, write_as_ledger

_COUNTS = """
SELECT webhook_id, sum(waiting)::bigint AS waiting, sum(given_up)::bigint AS given_up, sum(skipped)::bigint AS skipped,
  max(ended_ms) AS ended_ms
FROM (
  SELECT webhook_id, count(*) FILTER (WHERE given_up_at IS NULL) AS waiting,
    count(*) FILTER (WHERE given_up_at IS NOT NULL) AS given_up, 0 AS skipped, NULL::bigint AS ended_ms
  FROM webhook_messages GROUP BY webhook_id
  UNION ALL SELECT webhook_id, 0, 0, sum(skipped), NULL FROM webhook_gaps GROUP BY webhook_id
  UNION ALL SELECT webhook_id, 0, 0, 0, set_ms FROM webhook_ends
) AS parts GROUP BY webhook_id
"""
_FAILURES = """
SELECT webhook_id, 'msg_' || message_id AS message_id, type, attempts, last_problem AS problem, given_up_at AS at
FROM webhook_messages WHERE given_up_at IS NOT NULL AND ($1::text IS NULL OR webhook_id = $1)
ORDER BY given_up_at DESC LIMIT $2
"""
_GAPS = """
SELECT webhook_id, minute AS at, skipped FROM webhook_gaps WHERE $1::text IS NULL OR webhook_id = $1
ORDER BY minute DESC LIMIT $2
"""
_RETRY = """
UPDATE webhook_messages SET given_up_at = NULL, due_at = now(), attempts = 0, created_at = now()
WHERE webhook_id = $1 AND given_up_at IS NOT NULL
"""


@asynccontextmanager
async def _books(database_url: str) -> AsyncIterator[Any]:
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with connection.transaction():
            await write_as_ledger(connection)
            yield connection
    finally:
        await connection.close()


async def counts(database_url: str) -> dict[str, dict[str, Any]]:
    """For each webhook: how much waits, was given up, was skipped, and the setting that it ended by a 410."""
    async with _books(database_url) as connection:
        return {row["webhook_id"]: dict(row) for row in await connection.fetch(_COUNTS)}


async def failures(database_url: str, webhook_id: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest messages that were given up, and the minutes in which some were not even queued."""
    async with _books(database_url) as connection:
        given_up = [dict(row) for row in await connection.fetch(_FAILURES, webhook_id, limit)]
        gaps = [
            {
                "webhook_id": row["webhook_id"],
                "message_id": None,
                "type": None,
                "attempts": 0,
                "problem": f"{row['skipped']} messages were not queued: too many waited",
                "at": row["at"],
            }
            for row in await connection.fetch(_GAPS, webhook_id, limit)
        ]
    return sorted(given_up + gaps, key=lambda row: row["at"], reverse=True)[:limit]


async def retry(database_url: str, webhook_id: str) -> int:
    """Queue again what was given up; how many messages that were."""
    async with _books(database_url) as connection:
        done: str = await connection.execute(_RETRY, webhook_id)
    return int(done.rpartition(" ")[2])
