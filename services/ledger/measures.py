"""What the whole system looks like, for `/metrics`: lag, what is pending, held and spent, dead letters.

Nothing here is counted for each event: every ledger service looks now and then, and says what it saw. Where several run
they say the same, so rules take the highest of them.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.ledger import metrics
from services.ledger.lag import lags
from services.ledger.letters import waiting_letters
from services.ledger.looking import STATEMENT_TIMEOUT_MS
from services.ledger.sessions import UNUSABLE, Pool
from shared.clock import Clock
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions

EVERY_S = 10.0
# Looking takes at most this part of one connection's time: dear looks are made less often.
SHARE = 0.1

_BOOKS = """
SELECT month.spent, month.reserved, held.attempts, held.cents, breakers.open
FROM (SELECT coalesce(sum(spent_cents), 0) AS spent, coalesce(sum(reserved_cents), 0) AS reserved
      FROM llm_monthly_budget_state WHERE month = date_trunc('month', now() AT TIME ZONE 'UTC')::date) AS month,
     (SELECT count(*) AS attempts, coalesce(sum(reserved_cents), 0) AS cents
      FROM llm_budget_reservations WHERE state = 'held') AS held,
     (SELECT count(*) AS open FROM llm_breaker_state WHERE state = 'open') AS breakers
"""

log = structlog.get_logger(__name__)


class Measures:
    """Looks at streams and books, again and again."""

    def __init__(self, pool: Pool, redis: Redis, control: ControlReader, clock: Clock, partitions: Partitions) -> None:
        self._pool = pool
        self._redis = redis
        self._control = control
        self._clock = clock
        self._partitions = partitions

    async def run(self) -> None:
        """Until cancelled; a lost server is waited for, and meanwhile the time of the last look stands still."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except (
                RedisError,
                *UNUSABLE,
            ) as error:
                log.warning("cannot measure", problem=f"{type(error).__name__}: {error}")
            await asyncio.sleep(max(EVERY_S, (time.monotonic() - began) / SHARE))

    async def look(self) -> None:
        """Set every gauge, then the time of the look."""
        for lag in await lags(self._redis, self._partitions.number, self._clock.now_ms()):
            for reader in ("policy", "executor", "ledger"):
                metrics.READER_LAG.labels(lag["partition"], reader).set(lag[f"{reader}_s"])
            metrics.PENDING.labels(lag["partition"]).set(lag["in_flight"])
            metrics.OLDEST_PENDING.labels(lag["partition"]).set(lag["oldest_s"])
        metrics.DEAD_LETTERS.set(len(await waiting_letters(self._redis, self._control.state)))
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")
            row = await connection.fetchrow(_BOOKS)
        metrics.SPENT.set(row["spent"])
        metrics.RESERVED.set(row["reserved"])
        metrics.UNCERTAIN.set(row["attempts"])
        metrics.UNCERTAIN_CENTS.set(row["cents"])
        metrics.OPEN_BREAKERS.set(row["open"])
        metrics.MEASURED.set(time.time())
