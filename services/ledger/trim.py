"""Trimming: each stream up to its slowest reader that matters, and not a step further.

| stream    | read by                                   |
| tasks     | policy's position, the ledger's checkpoint |
| decisions | the executor group, the ledger's checkpoint |
| outcomes  | policy's position, the ledger's checkpoint |

Where replies were asked for (`reply_to`), decisions and outcomes are also read by the gateway that writes those.
The writer of models' breakers reads outcomes too, but only the newest: nothing is kept for it.

Gateways that wait for results, and live tails, read from the end: what is younger than `SKELDIR_TRIM_KEEP_SECONDS`
stays for them; and for the books, should they be restored from a copy. How far those go is asked of the database
itself: what the log says of it may be from before the copy. While the database is away nothing is trimmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from services.ledger import books
from services.ledger.metrics import TRIMMED
from services.ledger.sessions import UNUSABLE, Pool
from shared.clock import Clock
from shared.control_state import order_of
from shared.partitions import Partition
from shared.settings import Settings
from shared.streams.growing import Partitions

EXECUTOR_GROUP = b"executor"
NOTHING = "0-0"

log = structlog.get_logger(__name__)


class Trimmer:
    """Trims every partition, again and again."""

    def __init__(
        self,
        redis: Redis,
        pool: Pool,
        clock: Clock,
        partitions: Partitions,
        settings: Settings,
        keep_ms: int | None = None,
    ) -> None:
        self._redis = redis
        self._pool = pool
        self._clock = clock
        self._partitions = partitions
        self._settings = settings
        self._keep_ms = int(settings.trim_keep_seconds * 1000) if keep_ms is None else keep_ms

    async def run(self) -> None:
        """Until cancelled; a lost server is waited for."""
        while True:
            partitions = self._partitions.all
            try:
                ledger = await self.checkpoints(*partitions)
            except (*UNUSABLE,) as error:
                log.warning("cannot trim", problem=str(error))
            else:
                for partition in partitions:
                    try:
                        await self.trim(partition, ledger)
                    except RedisError as error:
                        log.warning("cannot trim", partition=partition.number, problem=str(error))
            await asyncio.sleep(self._settings.trim_interval_ms / 1000)

    async def checkpoints(self, *partitions: Partition) -> dict[str, str]:
        """Up to where each of their streams is in the books, as the database says it now."""
        async with self._pool.acquire() as connection:
            streams = [stream for one in partitions for stream in (one.tasks, one.decisions, one.outcomes)]
            return await books.positions(connection, streams)

    async def trim(self, partition: Partition, ledger: Mapping[str, str]) -> int:
        """Remove what every reader has read; how many entries that were."""
        removed = 0
        for stream, floor in (await self.floors(partition, ledger)).items():
            # MINID keeps the floor itself: it has been read, but its successor's id is not known.
            if floor != NOTHING:
                count = int(await self._redis.xtrim(stream, minid=floor, approximate=False))
                TRIMMED.labels(stream.rpartition(":")[2]).inc(count)
                removed += count
        return removed

    async def floors(self, partition: Partition, ledger: Mapping[str, str]) -> dict[str, str]:
        """For each stream the first entry that somebody may still need."""
        policy: Any = await self._redis.hgetall(partition.policy)
        replies: Any = await self._redis.hgetall(partition.replies)
        young = f"{self._clock.now_ms() - self._keep_ms}-0"

        def lowest(*entry_ids: str) -> str:
            return min((*entry_ids, young), key=order_of)

        return {
            partition.tasks: lowest(_at(policy, b"tasks"), ledger[partition.tasks]),
            partition.outcomes: lowest(
                _at(policy, b"outcomes"), ledger[partition.outcomes], *_followed(replies, b"outcomes")
            ),
            partition.decisions: lowest(
                await self._executors(partition), ledger[partition.decisions], *_followed(replies, b"decisions")
            ),
        }

    async def _executors(self, partition: Partition) -> str:
        """The oldest decision that is not acknowledged, or the last one delivered. No group: nothing was worked off."""
        try:
            groups: Any = await self._redis.xinfo_groups(partition.decisions)
        except ResponseError:
            return NOTHING
        for group in groups:
            if group["name"] == EXECUTOR_GROUP:
                delivered = _text(group["last-delivered-id"])
                pending: Any = await self._redis.xpending(partition.decisions, EXECUTOR_GROUP)
                oldest = pending["min"] if pending["pending"] else None
                return delivered if oldest is None else min(delivered, _text(oldest), key=order_of)
        return NOTHING


def _at(positions: dict[bytes, bytes], name: bytes) -> str:
    return positions.get(name, NOTHING.encode()).decode()


def _followed(replies: dict[bytes, bytes], name: bytes) -> list[str]:
    """Up to where results were replied; nothing where nobody ever asked for a reply."""
    return [replies[name].decode()] if name in replies else []


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
