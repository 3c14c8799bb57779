"""Entries that the ledger skipped get into the dead letters, once.

An entry that nobody can decode is set aside by the service that works its stream off (policy, the executor), usually
before the ledger sees it. So the ledger waits a moment, looks whether that has happened, and reports only what has not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.ledger.sessions import Connection, Pool
from shared.partitions import DEAD_LETTERS
from shared.streams.dead_letters import dead_letter

WAIT_S = 5.0
LOOK_S = 1.0
# A database that says nothing for so long is not there.
SILENCE_S = 3.0
PAGE = 100
RECENT = 1000

log = structlog.get_logger(__name__)


class Reporter:
    """Reports skipped entries that have waited for `wait_s`. It asks the database all the time."""

    def __init__(self, pool: Pool, redis: Redis, wait_s: float = WAIT_S) -> None:
        self._pool = pool
        self._redis = redis
        self._wait_s = wait_s
        self._answered_at = float("-inf")

    @property
    def problem(self) -> str | None:
        """Why the database cannot be used; None while it answers. A driver may wait for long before it complains."""
        if asyncio.get_running_loop().time() - self._answered_at > SILENCE_S:
            return "the database does not answer"
        return None

    async def run(self) -> None:
        """Until cancelled; lost servers are waited for."""
        while True:
            try:
                await self.report()
                self._answered_at = asyncio.get_running_loop().time()
            except (TimeoutError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                log.warning("cannot report skipped entries", problem=f"{type(error).__name__}: {error}")
            await asyncio.sleep(LOOK_S)

    async def report(self) -> int:
        """Report what is due; how many entries that were. The rows stay locked: two workers report nothing twice."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(
                "SELECT stream, entry_id, reason, type, data FROM skipped_entries WHERE NOT dead_lettered "
                "AND skipped_at <= now() - make_interval(secs => $1) ORDER BY skipped_at LIMIT $2 "
                "FOR UPDATE SKIP LOCKED",
                self._wait_s,
                PAGE,
            )
            if not rows:
                return 0
            known = await self._reported(connection, rows)
            due = [row for row in rows if (row["stream"], row["entry_id"]) not in known]
            for row in due:
                fields = {name: row[name.decode()] for name in (b"type", b"data") if row[name.decode()] is not None}
                letter = dead_letter(row["stream"], row["entry_id"], fields, f"ledger: {row['reason']}")
                await self._redis.execute_command(*letter)
            await connection.execute(
                "UPDATE skipped_entries AS old SET dead_lettered = true FROM unnest($1::text[], $2::text[]) "
                "AS new (stream, entry_id) WHERE old.stream = new.stream AND old.entry_id = new.entry_id",
                [row["stream"] for row in rows],
                [row["entry_id"] for row in rows],
            )
        return len(due)

    async def _reported(self, connection: Connection, rows: list[Any]) -> set[tuple[str, str]]:
        """Which of them have a dead letter already: among the recent ones in the log, or in the books."""
        recent: Any = await self._redis.xrevrange(DEAD_LETTERS, count=RECENT)
        found = {(fields.get(b"origin", b"").decode(), fields.get(b"entry_id", b"").decode()) for _, fields in recent}
        stored = await connection.fetch(
            "SELECT origin, entry_id FROM dead_letters WHERE origin = ANY ($1) AND entry_id = ANY ($2)",
            [row["stream"] for row in rows],
            [row["entry_id"] for row in rows],
        )
        return found | {(row["origin"], row["entry_id"]) for row in stored}
