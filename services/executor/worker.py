"""Reading decisions from every partition and performing them, as many at once as there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.executor.delivery import delivery_of
from services.executor.journal import GROUP
from services.executor.metrics import IN_FLIGHT, TAKEN_OVER
from services.executor.performance import Performer
from shared.events.registry import EVENTS, UndecodableEvent
from shared.partitions import Partition
from shared.settings import Settings
from shared.streams.connection import BLOCK_MS
from shared.streams.consumer_group import ConsumerGroup
from shared.streams.dead_letters import dead_letter
from shared.streams.read import Entry

RETRY_S = 0.1
DRAIN_S = 8.0

log = structlog.get_logger(__name__)


class PartitionWorker:
    """Performs one partition's decisions. `room` is shared by all partitions of this executor."""

    def __init__(
        self,
        redis: Redis,
        partition: Partition,
        name: str,
        performer: Performer,
        room: asyncio.Semaphore,
        settings: Settings,
    ) -> None:
        self._redis = redis
        self._partition = partition
        self._group = ConsumerGroup(redis, partition.decisions, GROUP, name)
        self._performer = performer
        self._room = room
        self._batch = max(1, min(settings.batch_size, settings.executor_concurrency // 2))
        self._claim_idle_ms = settings.executor_claim_idle_ms
        self._performing: dict[str, asyncio.Task[None]] = {}
        self.problem: str | None = "has not read yet"

    async def run(self) -> None:
        """Read and perform until cancelled; then let what is under way end, as far as it does in time."""
        janitor = asyncio.create_task(self._look_after())
        try:
            while True:
                try:
                    await self._group.ensure()
                    while True:
                        await self._read()
                        self.problem = None
                except RedisError as error:
                    self.problem = f"the log cannot be read: {error}"
                    log.warning("lost the log", partition=self._partition.number, error=str(error))
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._drain()
            janitor.cancel()

    async def _read(self) -> None:
        """Take as many decisions as there is room for."""
        await self._room.acquire()
        self._room.release()
        count = max(1, min(self._batch, self._room._value))
        await self._start(await self._group.read(count, BLOCK_MS))

    async def _start(self, entries: Sequence[Entry], *, taken_over: bool = False) -> None:
        """Begin to perform what is work; acknowledge what is none."""
        done: list[str] = []
        for raw_id, fields in entries:
            entry_id = raw_id.decode()
            if entry_id in self._performing:
                continue
            if fields.get(b"type") != b"task.allowed":
                done.append(entry_id)
                continue
            try:
                delivery = delivery_of(
                    self._partition, entry_id, EVENTS.decode(fields.get(b"data")), taken_over=taken_over
                )
            except (UndecodableEvent, ValueError) as error:
                await self._redis.execute_command(*dead_letter(self._partition.decisions, entry_id, fields, str(error)))
                done.append(entry_id)
                continue
            assert delivery is not None, "its type says that it is work"
            await self._room.acquire()
            task = asyncio.create_task(self._performer.perform(delivery))
            self._performing[entry_id] = task
            IN_FLIGHT.inc()
            task.add_done_callback(partial(self._ended, entry_id))
        await self._group.acknowledge(done)

    def _ended(self, entry_id: str, task: asyncio.Task[None]) -> None:
        del self._performing[entry_id]
        IN_FLIGHT.dec()
        self._room.release()
        if not task.cancelled() and (error := task.exception()):
            # Not acknowledged: it is claimed and looked at again.
            log.error("could not end a delivery", entry=entry_id, exc_info=error)

    async def _look_after(self) -> None:
        """Keep what is under way young, and take over what others left behind."""
        while True:
            await asyncio.sleep(self._claim_idle_ms / 4000)
            with suppress(RedisError):
                await self._group.keep(list(self._performing))
                if self._room.locked():
                    continue
                taken = await self._group.claim(self._claim_idle_ms, self._batch)
                if taken:
                    TAKEN_OVER.inc(len(taken))
                    log.warning("takes over deliveries", partition=self._partition.number, count=len(taken))
                    await self._start(taken, taken_over=True)

    async def _drain(self) -> None:
        under_way = list(self._performing.values())
        if under_way:
            _, left = await asyncio.wait(under_way, timeout=DRAIN_S)
            for task in left:
                task.cancel()
        with suppress(RedisError):
            await self._group.leave()
