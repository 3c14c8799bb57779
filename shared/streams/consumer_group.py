"""Reading a stream as one of a consumer group, with its holes closed.

The group is made at 0, so what came before it is not missed, and made anew when somebody deletes it. Deliveries that are
in work are kept young; those of consumers that went silent are claimed. What was delivered twice must be
recognised by whoever works it off: this reads at least once.
"""

from __future__ import annotations

from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.streams.read import Entry, entries_by_stream

CLAIM_PAGE = 100

log = structlog.get_logger(__name__)


class ConsumerGroup:
    """One consumer's view of one stream. `consumer` must be unique among all that ever lived at the same time."""

    def __init__(self, redis: Redis, stream: str, group: str, consumer: str) -> None:
        self._redis = redis
        self._stream = stream
        self._group = group
        self._consumer = consumer

    async def ensure(self) -> None:
        """Make the group, from the stream's start, where there is none."""
        try:
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def read(self, count: int, block_ms: int | None) -> list[Entry]:
        """Up to `count` entries that nobody was given yet; waits `block_ms` for the first."""
        try:
            reply: Any = await self._redis.xreadgroup(
                self._group, self._consumer, {self._stream: ">"}, count=count, block=block_ms
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            log.warning("consumer group was lost, and is made again", stream=self._stream, group=self._group)
            await self.ensure()
            return []
        return entries_by_stream(reply).get(self._stream, [])

    async def claim(self, idle_ms: int, count: int = CLAIM_PAGE) -> list[Entry]:
        """Take over deliveries that were not touched for `idle_ms`; references to trimmed entries are dropped."""
        try:
            reply: Any = await self._redis.xautoclaim(
                self._stream, self._group, self._consumer, min_idle_time=idle_ms, start_id="0-0", count=count
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.ensure()
            return []
        return [entry for entry in reply[1] if entry[1]]

    async def keep(self, entry_ids: list[str]) -> None:
        """Say that these are still in work here, so that nobody claims them."""
        if entry_ids:
            await self._redis.xclaim(
                self._stream, self._group, self._consumer, min_idle_time=0, message_ids=list(entry_ids), justid=True
            )

    async def acknowledge(self, entry_ids: list[str]) -> None:
        """Say that these are done."""
        if entry_ids:
            await self._redis.xack(self._stream, self._group, *entry_ids)

    async def leave(self) -> None:
        """Remove this consumer if nothing is left in its name."""
        pending: Any = await self._redis.xpending_range(
            self._stream, self._group, min="-", max="+", count=1, consumername=self._consumer
        )
        if not pending:
            await self._redis.xgroup_delconsumer(self._stream, self._group, self._consumer)
