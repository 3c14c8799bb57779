"""Dashboards on a replica: what is read comes from there, and what has to be written goes to the primary."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from services.ledger.metrics import REPLICA_LAG
from services.ledger.sessions import UNUSABLE, Pool

LOOK_S = 1.0
# What has arrived and is all replayed is no lag, however long ago it came.
_LAG = """
SELECT CASE WHEN NOT pg_is_in_recovery() OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
       ELSE extract(epoch FROM now() - coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time()))
       END::float8
"""

log = structlog.get_logger(__name__)


class Replica:
    """A pool of connections to a replica. `primary` is where a look is written down."""

    def __init__(self, pool: Pool, primary: Pool) -> None:
        self._pool = pool
        self.primary = primary
        self.problem: str | None = None

    def acquire(self, **options: Any) -> Any:
        """A connection that reads."""
        return self._pool.acquire(**options)

    async def run(self) -> None:
        """Ask it how far behind it is, until cancelled."""
        while True:
            try:
                async with self._pool.acquire() as connection:
                    REPLICA_LAG.set(await connection.fetchval(_LAG))
                self.problem = None
            except UNUSABLE as error:
                self.problem = f"SKELDIR_DATABASE_READ_URL cannot be read: {type(error).__name__}: {error}"
                log.warning("the replica cannot be read", problem=self.problem)
            await asyncio.sleep(LOOK_S)


def primary_of(pool: Pool) -> Pool | None:
    """Where looks are written down, if that is elsewhere."""
    return pool.primary if isinstance(pool, Replica) else None
