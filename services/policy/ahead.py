"""How far a partition's decisions are ahead of the executors, which perform them in their order.

An allow holds money, and for `SKELDIR_DECISION_TTL_MS` only. Behind a backlog that takes executors longer than that,
each task would be allowed, expire unperformed, and be allowed again behind all the others, for ever: the more so the
longer the backlog. So nothing new is decided while what waits for an executor has done so for a good part of that time.
It waits undecided instead, and holds nothing.
"""

from __future__ import annotations

from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from shared.clock import Clock
from shared.control_state import order_of
from shared.partitions import Partition

EXECUTORS = b"executor"
SHARE = 0.25
"""Of an allow's life: the rest is for its place in the executor, and its call."""
FEW = 500
"""So few undelivered decisions are none: an executor that starts, or is away, finds them at once."""
LOOK_MS = 250

log = structlog.get_logger(__name__)


def is_too_far(oldest_ms: int, now_ms: int, ttl_ms: int) -> bool:
    """Whether to decide no more: `oldest_ms` is when the oldest decision was made that no executor has taken yet."""
    return now_ms - oldest_ms > SHARE * ttl_ms


class Ahead:
    """Looks at what waits in one partition's decisions: now and then, while there may be more than a few."""

    def __init__(self, redis: Redis, partition: Partition, clock: Clock, ttl_ms: int) -> None:
        self._redis = redis
        self._stream = partition.decisions
        self._clock = clock
        self._ttl_ms = ttl_ms
        self._look_at_ms = 0
        self._some_wait = True
        self._may_look = True
        self._log = log.bind(partition=partition.number)
        self.too_far = False

    def added(self) -> None:
        """There are more of them."""
        self._some_wait = True

    async def look(self) -> bool:
        """Whether to decide no more for now. Raises RedisError."""
        now_ms = self._clock.now_ms()
        if now_ms < self._look_at_ms or not self._some_wait:
            return self.too_far
        oldest_ms = await self._oldest_ms() if self._may_look else None
        found = oldest_ms is not None and is_too_far(oldest_ms, now_ms, self._ttl_ms)
        if found is not self.too_far:
            self._log.info("decides no more until executors catch up" if found else "goes on deciding")
        self.too_far, self._some_wait, self._look_at_ms = found, oldest_ms is not None, now_ms + LOOK_MS
        return found

    async def _oldest_ms(self) -> int | None:
        """When the oldest undelivered decision was made, where they are more than a few."""
        try:
            groups: Any = await self._redis.xinfo_groups(self._stream)
        except NoPermissionError:
            self._may_look = False
            self._log.warning("may not look how far executors are: the log's users are of an older release")
            return None
        except ResponseError:  # there is no stream yet
            return None
        delivered, lag = next(
            ((one["last-delivered-id"].decode(), one["lag"]) for one in groups if one["name"] == EXECUTORS),
            ("0-0", None),
        )
        if lag is not None and lag < FEW:
            return None
        # Unknown where there is no group, or one that began in the midst of the stream: then they are counted.
        waiting: Any = await self._redis.xrange(self._stream, min=f"({delivered}", count=FEW if lag is None else 1)
        if not waiting or (lag is None and len(waiting) < FEW):
            return None
        return order_of(waiting[0][0].decode())[0]
