"""Reading decisions from one partition and performing them, as many at once as there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
from shared.partitions import Partition
from shared.settings import Settings
from shared.streams.connection import BLOCK_MS
from shared.streams.consumer_group import ConsumerGroup
from shared.streams.control_reader import ControlReader
from shared.streams.dead_letters import dead_letter
from shared.streams.pipeline import ScriptPipeline
from shared.streams.read import Entry

RETRY_S = 0.1
READY_S = 0.01
DRAIN_S = 8.0
SWEEP_S = 60.0
GONE_MS = 600_000
# Tasks that wait for an identical call hold no place; so many times the places may be held in all.
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
        control: ControlReader,
        room: Room,
        settings: Settings,
    ) -> None:
        self._partition = partition
        self._group = ConsumerGroup(redis, partition.decisions, GROUP, executor)
        self._pipeline = ScriptPipeline(redis)
        self._performer = performer
        self._control = control
        self._room = room
        self._batch = max(1, min(settings.batch_size, settings.executor_concurrency // 2))
        self._max_held = settings.executor_concurrency * HELD_PER_PLACE
        self._claim_idle_ms = settings.executor_claim_idle_ms
        self._held: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self.problem: str | None = "has not read yet"

    async def run(self) -> None:
        """Read and perform until cancelled; then let what is under way end, as far as it does in time."""
        while self._control.is_stale:  # else the first tasks would be blocked by nothing but our own start
            await asyncio.sleep(READY_S)
        janitor = asyncio.create_task(self._look_after())
        try:
            while not janitor.done():
                try:
                    await self._group.ensure()
                    await self._pick_up_own()
                    while not janitor.done():
                        await self._read()
                        self.problem = None
                except RedisError as error:
                    self.problem = f"the log cannot be read: {error}"
                    log.warning("lost the log", partition=self._partition.number, error=str(error))
                    await asyncio.sleep(RETRY_S)
            janitor.result()
        finally:
            self._stopping = True
            await self._drain()
            janitor.cancel()

    async def _read(self) -> None:
        """Take as many decisions as there is room for; when there are none, wait for one."""
        if len(self._held) >= self._max_held:
            await asyncio.wait(self._held.values(), return_when=asyncio.FIRST_COMPLETED)
            return
        places = self._room.take_now(self._batch)
        if not places:
            await self._room.wait()
            return
        entries: list[Entry] = []
        try:
            entries = await self._group.read(places, None)
            places -= self._start(entries, redelivered=False)
        finally:
            self._room.give(places)
        await self._set_aside(entries)
        if not entries:  # holding a place while nothing comes would take it from the other partitions
            await self._take_in(await self._group.read(1, BLOCK_MS), redelivered=False)

    async def _pick_up_own(self) -> None:
        """Deliveries whose reply was lost on its way: nobody else knows of them."""
        after = "0"
        while entries := await self._group.own(after):
            after = entries[-1][0].decode()
            for entry in entries:
                await self._take_in([entry], redelivered=True)

    async def _take_in(self, entries: list[Entry], *, redelivered: bool) -> None:
        """Start entries for which no place was taken before."""
        for entry in entries:
            await self._room.take()
            self._room.give(1 - self._start([entry], redelivered=redelivered))
        await self._set_aside(entries)

    def _start(self, entries: Sequence[Entry], *, redelivered: bool) -> int:
        """Begin to perform what is work; how many places that takes. What it holds is kept young from now on."""
        started = 0
        for raw_id, fields in entries:
            entry_id = raw_id.decode()
            if entry_id in self._held or not _is_work(fields):
                continue
            delivery = self._delivery(entry_id, fields, redelivered=redelivered)
            if isinstance(delivery, Delivery):
                place = Place(self._room)
                task = asyncio.create_task(self._performer.perform(delivery, place))
                self._held[entry_id] = task
                IN_FLIGHT.inc()
                task.add_done_callback(partial(self._ended, entry_id, place))
                started += 1
        return started

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
                await self._pipeline.command(*dead_letter(self._partition.decisions, entry_id, fields, problem))
            done.append(entry_id)
        await self._group.acknowledge(done)

    def _ended(self, entry_id: str, place: Place, task: asyncio.Task[None]) -> None:
        del self._held[entry_id]
        IN_FLIGHT.dec()
        place.leave()
        if not task.cancelled() and (error := task.exception()):
            # Not acknowledged: it is claimed and looked at again.
            log.error("could not end a delivery", entry=entry_id, exc_info=error)

    async def _look_after(self) -> None:
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
        """Never waits for room: the heartbeat of what is held must go on."""
        places = self._room.take_now(self._batch)
        taken: list[Entry] = []
        try:
            if places:
                taken = await self._group.claim(self._claim_idle_ms, places)
                places -= self._start(taken, redelivered=True)
        finally:
            self._room.give(places)
        if taken:
            TAKEN_OVER.inc(len(taken))
            log.warning("takes over deliveries", partition=self._partition.number, count=len(taken))
            await self._set_aside(taken)

    async def _drain(self) -> None:
        if self._held:
            _, left = await asyncio.wait(self._held.values(), timeout=DRAIN_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        try:
            await self._group.leave()
        except RedisError as error:
            log.warning("could not leave the group", partition=self._partition.number, error=str(error))


def _is_work(fields: dict[bytes, bytes]) -> bool:
    return fields.get(b"type") == TaskAllowed.event_type.encode()
