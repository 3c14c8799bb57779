"""One partition's decisions, performed as many at once as there is room for. `reading` hands them in.

read or claimed --queued for a place--> performed --> acknowledged with its end
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.executor.delivery import Delivery, delivery_of
from services.executor.journal import GROUP
from services.executor.metrics import IN_FLIGHT, TAKEN_OVER
from services.executor.performance import Performer
from services.executor.room import Place, Room
from shared.events.decisions import TaskAllowed
from shared.events.registry import EVENTS, UndecodableEvent
from shared.logs import about
from shared.partitions import Partition
from shared.settings import Settings
from shared.streams.consumer_group import ConsumerGroup
from shared.streams.dead_letters import dead_letter
from shared.streams.read import Entry

SWEEP_S = 60.0
GONE_MS = 600_000
# What waits for a place or for an identical call has none; of a partition so many times the places may be held.
HELD_PER_PLACE = 8

log = structlog.get_logger(__name__)


class PartitionWorker:
    """Performs one partition's decisions. `room` is shared by all partitions of this executor."""

    def __init__(
        self,
        redis: Redis,
        partition: Partition,
        executor: str,
        performer: Performer,
        room: Room,
        settings: Settings,
    ) -> None:
        self._partition = partition
        self._group = ConsumerGroup(redis, partition.decisions, GROUP, executor)
        self._performer = performer
        self._room = room
        self._batch = max(1, min(settings.batch_size, settings.executor_concurrency // 2))
        self._claim_idle_ms = settings.executor_claim_idle_ms
        self._drain_s = settings.drain_seconds
        self._held: dict[str, asyncio.Task[None]] = {}
        self._queued: dict[str, asyncio.Task[None]] = {}  # those of them that have not had a place yet
        self._stopping = False
        self.stream = partition.decisions
        self.max_held = settings.executor_concurrency * HELD_PER_PLACE
        self.problem: str | None = "has not read yet"

    @property
    def held(self) -> Iterable[asyncio.Task[None]]:
        """What is being performed, or waits for a place."""
        return self._held.values()

    @property
    def is_full(self) -> bool:
        """Whether it holds as much as it may."""
        return len(self._held) >= self.max_held

    async def make_group(self) -> None:
        """Make the group that shares this partition's decisions, where there is none."""
        await self._group.ensure()

    async def begin(self) -> None:
        """What is to be done before reading, at first and after a lost connection. Raises RedisError."""
        await self._group.ensure()
        await self._pick_up_own()

    async def _pick_up_own(self) -> None:
        """Deliveries whose reply was lost on its way: nobody else knows of them."""
        after = "0"
        while entries := await self._group.own(after):
            after = entries[-1][0].decode()
            await self.take_in(entries, redelivered=True)

    async def take_in(self, entries: Sequence[Entry], *, redelivered: bool) -> None:
        """Begin to perform what is work, acknowledge the rest. What is held is kept young from now on."""
        for raw_id, fields in entries:
            entry_id = raw_id.decode()
            if entry_id in self._held or not _is_work(fields):
                continue
            delivery = self._delivery(entry_id, fields, redelivered=redelivered)
            if isinstance(delivery, Delivery):
                place = Place(self._room, delivery.tenant_id)
                place.take_now()
                task = asyncio.create_task(self._perform(delivery, place))
                self._held[entry_id] = task
                if not place.is_held:
                    self._queued[entry_id] = task
                IN_FLIGHT.inc()
                task.add_done_callback(partial(self._ended, delivery, place))
        await self._set_aside(entries)

    async def _perform(self, delivery: Delivery, place: Place) -> None:
        structlog.contextvars.bind_contextvars(**about(delivery.event))  # of this asyncio task, and so of all its lines
        if not place.is_held:
            await place.take()
            del self._queued[delivery.entry_id]
        await self._performer.perform(delivery, place)

    def _delivery(self, entry_id: str, fields: dict[bytes, bytes], *, redelivered: bool) -> Delivery | str:
        """The delivery, or why it is none."""
        try:
            event = EVENTS.decode(fields.get(b"data"))
            return delivery_of(self._partition, entry_id, event, redelivered=redelivered)
        except (UndecodableEvent, ValueError) as error:
            return str(error)

    async def _set_aside(self, entries: Sequence[Entry]) -> None:
        """Acknowledge what is no work; what claims to be and cannot be read goes to the dead letters first."""
        done: list[str] = []
        for raw_id, fields in entries:
            entry_id = raw_id.decode()
            if _is_work(fields):
                if entry_id in self._held:
                    continue
                problem = self._delivery(entry_id, fields, redelivered=False)
                if isinstance(problem, Delivery):
                    continue  # it has ended already
                await self._performer.pipeline.command(
                    *dead_letter(self._partition.decisions, entry_id, fields, problem)
                )
            done.append(entry_id)
        if done:  # with what others write meanwhile
            await self._performer.pipeline.command("XACK", self.stream, GROUP, *done)

    def _ended(self, delivery: Delivery, place: Place, task: asyncio.Task[None]) -> None:
        del self._held[delivery.entry_id]
        self._queued.pop(delivery.entry_id, None)
        IN_FLIGHT.dec()
        place.leave()
        if not task.cancelled() and (error := task.exception()):
            # Not acknowledged: it is claimed and looked at again.
            log.error("could not end a delivery", entry=delivery.entry_id, **about(delivery.event), exc_info=error)

    async def look_after(self) -> None:
        """Keep what is held young, take over what others left behind, and remove who has long been gone."""
        sweep_at = 0.0
        while True:
            await asyncio.sleep(self._claim_idle_ms / 4000)
            try:
                await self._group.keep(list(self._held))
                if self._stopping:
                    continue
                await self._take_over()
                if (now := asyncio.get_running_loop().time()) >= sweep_at:
                    await self._group.sweep(max(GONE_MS, 10 * self._claim_idle_ms))
                    sweep_at = now + SWEEP_S
            except RedisError as error:
                log.warning("could not look after deliveries", partition=self._partition.number, error=str(error))

    async def _take_over(self) -> None:
        """No more than there is room for: what is left may be taken by an executor with more of it."""
        if not self._room.is_open:
            return
        if taken := await self._group.claim(self._claim_idle_ms, min(self._batch, self._room.free)):
            TAKEN_OVER.inc(len(taken))
            log.warning("takes over deliveries", partition=self._partition.number, count=len(taken))
            await self.take_in(taken, redelivered=True)

    async def drain(self) -> None:
        """Hand back what has not begun, and let what has end, as far as it does in time."""
        self._stopping = True
        queued = dict(self._queued)
        for task in queued.values():
            task.cancel()
        await self._hand_back(set(queued))
        if self._held:
            _, left = await asyncio.wait(self._held.values(), timeout=self._drain_s)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        try:
            await self._group.leave()
        except RedisError as error:
            log.warning("could not leave the group", partition=self._partition.number, error=str(error))

    async def _hand_back(self, queued: set[str]) -> None:
        """What is not begun, or was delivered to a read that was cut off: another executor may claim it at once."""
        try:
            delivered = [entry_id.decode() for entry_id, _ in await self._group.own()]
            idle = [entry_id for entry_id in delivered if entry_id in queued or entry_id not in self._held]
            await self._group.hand_back(idle, self._claim_idle_ms)
        except RedisError as error:
            log.warning("could not hand deliveries back", partition=self._partition.number, error=str(error))


def _is_work(fields: dict[bytes, bytes]) -> bool:
    return fields.get(b"type") == TaskAllowed.event_type.encode()
