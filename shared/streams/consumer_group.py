"""Reading a stream as one of a consumer group, with its holes closed.

The group is made at 0, so what came before it is not missed, and made anew when somebody deletes it. Deliveries that
are in work are kept young; those of consumers that went silent are claimed; those whose reply was lost on its way are
found among one's own. What was delivered twice must be recognised by whoever works it off: this reads at least once.

    XADD --read--> pending (ours) --acknowledge--> done
    pending (ours) --silent for idle_ms--> claimed by another --acknowledge--> done
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.streams.read import Entry
from shared.streams.script import script

CLAIM_PAGE = 100
# XAUTOCLAIM looks at ten times its count and stops there: so many looks pass over those that are still young.
CLAIM_LOOKS = 100

log = structlog.get_logger(__name__)


class ConsumerGroup:
    """One consumer's view of one stream. `consumer` must be unique among all that ever lived at the same time."""

    def __init__(self, redis: Redis, stream: str, group: str, consumer: str) -> None:
        self._redis = redis
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._make = script(redis, "shared.streams", "group")
        self._leave = script(redis, "shared.streams", "leave")

    async def ensure(self) -> None:
        """Make the group, from the stream's start, where there is none."""
        await self._make(keys=[self._stream], args=[self._group])

    async def read(self, count: int, block_ms: int | None) -> list[Entry]:
        """Up to `count` entries that nobody was given yet; waits `block_ms` for the first (None: does not wait)."""
        return await self._read(">", count, block_ms)

    async def own(self, after: str = "0", count: int = CLAIM_PAGE) -> list[Entry]:
        """Up to `count` entries behind `after` that were delivered to this consumer and are not acknowledged.

        To be worked off after a lost connection: a delivery whose reply was lost is among them, and nobody knows it.
        An entry that was trimmed meanwhile comes with no fields; it is to be acknowledged.
        """
        return await self._read(after, count, None)

    async def claim(self, idle_ms: int, count: int = CLAIM_PAGE) -> list[Entry]:
        """Take over up to `count` deliveries that were not touched for `idle_ms`; references to trimmed ones go."""
        taken: list[Entry] = []
        start = "0-0"
        for _ in range(CLAIM_LOOKS):
            try:
                reply: Any = await self._redis.xautoclaim(
                    self._stream, self._group, self._consumer, idle_ms, start, count=count - len(taken)
                )
            except ResponseError as error:
                await self._made_again(error)
                break
            taken += [entry for entry in reply[1] if entry[1]]
            start = reply[0]
            if len(taken) >= count or start == b"0-0":
                break
        return taken

    async def keep(self, entry_ids: Sequence[str]) -> None:
        """Say that these are still in work here, so that nobody claims them."""
        if not entry_ids:
            return
        try:
            await self._redis.xclaim(
                self._stream, self._group, self._consumer, min_idle_time=0, message_ids=list(entry_ids), justid=True
            )
        except ResponseError as error:
            await self._made_again(error)

    async def hand_back(self, entry_ids: Sequence[str], idle_ms: int) -> None:
        """Say that these are not worked on: they count as untouched for `idle_ms`, so that others claim them now."""
        if entry_ids:
            await self._redis.xclaim(
                self._stream, self._group, self._consumer,
                min_idle_time=0, message_ids=list(entry_ids), idle=idle_ms, justid=True,
            )  # fmt: skip

    async def acknowledge(self, entry_ids: Sequence[str]) -> None:
        """Say that these are done."""
        if entry_ids:
            await self._redis.xack(self._stream, self._group, *entry_ids)

    async def remove(self, entry_ids: Sequence[str]) -> None:
        """Say that these are done, and take them out of the stream: for one whose only reader is this group."""
        if entry_ids:
            # Removed first: a crash in between leaves a reference to nothing, which `claim` clears away.
            await self._redis.xdel(self._stream, *entry_ids)
            await self._redis.xack(self._stream, self._group, *entry_ids)

    async def leave(self) -> None:
        """Remove this consumer if nothing is left in its name; what is left is for others to claim."""
        await self._leave(keys=[self._stream], args=[self._group, self._consumer, 0])

    async def sweep(self, silent_ms: int) -> int:
        """Remove consumers with nothing pending that did not read for `silent_ms`; how many."""
        return int(await self._leave(keys=[self._stream], args=[self._group, "", silent_ms]))

    async def _read(self, after: str, count: int, block_ms: int | None) -> list[Entry]:
        waits = () if block_ms is None else ("BLOCK", block_ms)
        try:
            found: dict[str, list[Entry]] = await self._redis.execute_command(
                "XREADGROUP",
                "GROUP",
                self._group,
                self._consumer,
                "COUNT",
                count,
                *waits,
                "STREAMS",
                self._stream,
                after,
            )
        except ResponseError as error:
            await self._made_again(error)
            return []
        return found.get(self._stream, [])

    async def _made_again(self, error: ResponseError) -> None:
        """Make the group anew if that was the matter; else raise."""
        if "NOGROUP" not in str(error):
            raise error
        log.warning("consumer group was lost, and is made again", stream=self._stream, group=self._group)
        await self.ensure()
