"""Ends as they happen: follows every partition's decisions and outcomes, and wakes who waits for a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson
import structlog
from redis.exceptions import RedisError

from services.gateway.allowance import DECISIONS, said_of
from services.gateway.metrics import WAITING
from shared.events.registry import EVENTS
from shared.events.results import END_EVENTS, TaskResult, result_from
from shared.partitions import Partition, partition_for
from shared.streams.client import LogClient
from shared.streams.growing import Partitions
from shared.streams.pipeline import ScriptPipeline
from shared.streams.read import BLOCK_MS, Entry, read_after

PAGE = 500
RETRY_S = 0.1
# A wait looks at the task's record this often beside being woken: entries may be trimmed while the log is out of reach.
LOOK_S = 2.0
MAX_WAITING = 10_000
MAX_WATCHING = 1000
MAX_QUEUED_EVENTS = 1000
# How far back the events of a task are looked for, in entries of each stream.
HISTORY_PAGES, HISTORY_PAGE = 5, 100

log = structlog.get_logger(__name__)

_ENDS = frozenset(name.encode() for name in END_EVENTS)


class TooManyWait(RuntimeError):
    """More requests wait than this gateway holds."""


class Results:
    """Who waits for which task, and the readers that wake them."""

    def __init__(self, redis: LogClient, partitions: Partitions) -> None:
        self._redis = redis
        # Ten thousand who look at a record at once share a connection, instead of wanting one each.
        self._pipeline = ScriptPipeline(redis)
        self._partitions = partitions
        self._waiting: dict[str, set[asyncio.Future[TaskResult]]] = {}
        self._decisions: dict[str, dict[str, Any]] = {}
        self._watching: dict[str, set[asyncio.Queue[dict[str, Any]]]] = {}
        self._waiters = 0
        self._watchers = 0
        self._until = float("inf")
        self.problems: dict[int, str | None] = dict.fromkeys(range(partitions.number), "has not read yet")

    def wind_up(self, seconds: float) -> None:
        """This gateway is about to stop: no wait takes longer than that from now on. The task goes on all the same."""
        self._until = asyncio.get_running_loop().time() + seconds

    async def follow(self) -> None:
        """Read every partition, until cancelled: by one command what one can name. A partition that comes later has a
        command of its own, for which nobody has to wait."""
        known = {one.decisions: one for one in self._partitions.all}
        first = {names[0]: [known[name] for name in names] for names in self._redis.apart(list(known))}

        async def follow(partition: Partition) -> None:
            name = partition.decisions
            if name in first:
                await self._follow(first[name])
            elif name in known:
                await asyncio.Event().wait()  # another one's command reads it, too
            else:  # from its beginning: an end may be in it before this gateway has heard of it
                await self._follow([partition], dict.fromkeys((partition.decisions, partition.outcomes), "0-0"))

        await self._partitions.each(follow)

    @asynccontextmanager
    async def expect(self, task_id: UUID) -> AsyncIterator[asyncio.Future[TaskResult]]:
        """A future of the task's result; to be entered before the task is submitted. Raises TooManyWait."""
        if self._waiters >= MAX_WAITING:
            raise TooManyWait(f"{MAX_WAITING} requests wait already")
        future: asyncio.Future[TaskResult] = asyncio.get_running_loop().create_future()
        self._waiters += 1
        WAITING.set(self._waiters)
        waiting = self._waiting.setdefault(str(task_id), set())
        waiting.add(future)
        try:
            yield future
        finally:
            self._waiters -= 1
            WAITING.set(self._waiters)
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(str(task_id), None)
                self._decisions.pop(str(task_id), None)

    def decision(self, task_id: UUID) -> dict[str, Any]:
        """What the newest decision about a task that is expected says of limits; empty where none has come by."""
        return self._decisions.get(str(task_id), {})

    async def wait(
        self, tenant_id: UUID, task_id: UUID, future: asyncio.Future[TaskResult], seconds: float
    ) -> TaskResult | None:
        """The result, or None when it does not come in time. While the log is out of reach it goes on waiting."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            left = min(deadline, self._until) - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait({future}, timeout=max(0.0, min(left, LOOK_S)))
            if done:
                return future.result()
            try:
                record = await self.record(tenant_id, task_id)
            except RedisError:
                record = None  # the task is durable all the same: a later look, or the caller's own, finds its end
            if record is not None and record.get(b"result"):
                return TaskResult.model_validate_json(record[b"result"])
            if left <= LOOK_S:
                return None

    async def record(self, tenant_id: UUID, task_id: UUID) -> dict[bytes, bytes] | None:
        """The record of a task of this tenant, or None where there is none (any more). Raises RedisError."""
        partition = partition_for(tenant_id, self._partitions.number)
        found: dict[bytes, bytes] = await self._pipeline.command("HGETALL", partition.task(task_id))
        # A task's id says nothing about whose it is, and its neighbours in the partition are other tenants'.
        return found if found.get(b"tenant") == str(tenant_id).encode() else None

    def may_watch(self) -> bool:
        """Whether there is room for one more who follows a task's events."""
        return self._watchers < MAX_WATCHING

    @asynccontextmanager
    async def watch(self, tenant_id: UUID, task_id: UUID) -> AsyncIterator[asyncio.Queue[dict[str, Any]]]:
        """A queue of the task's events: those still in the log, then each as it happens. One may come twice.

        Raises RedisError when the log cannot be read.
        """
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MAX_QUEUED_EVENTS)
        watching = self._watching.setdefault(str(task_id), set())
        watching.add(queue)
        self._watchers += 1
        try:
            before = await self._history(partition_for(tenant_id, self._partitions.number), str(task_id))
            meanwhile = [queue.get_nowait() for _ in range(queue.qsize())]
            for event in (*before, *meanwhile):
                _offer(queue, event)
            yield queue
        finally:
            self._watchers -= 1
            watching.discard(queue)
            if not watching:
                self._watching.pop(str(task_id), None)

    async def _history(self, partition: Partition, subject: str) -> list[dict[str, Any]]:
        """The task's events among the newest of each stream."""
        found: list[dict[str, Any]] = []
        for stream in (partition.tasks, partition.decisions, partition.outcomes):
            newest = "+"
            of_stream: list[dict[str, Any]] = []
            for _ in range(HISTORY_PAGES):
                page: list[Entry] = await self._pipeline.command(
                    "XREVRANGE", stream, newest, "-", "COUNT", HISTORY_PAGE
                )
                of_stream += [event for _, fields in page if (event := _about(subject, fields))]
                if len(page) < HISTORY_PAGE:
                    break
                newest = f"({page[-1][0].decode()}"
            found += reversed(of_stream)
        # By time, and within a millisecond in the order of the streams: cause before effect.
        return sorted(found, key=lambda event: str(event.get("time")))

    async def _follow(self, together: Sequence[Partition], after: Mapping[str, str] = MappingProxyType({})) -> None:
        """Read these partitions: `after` these entries, and what is not named there from its end."""
        streams = [stream for one in together for stream in (one.decisions, one.outcomes)]
        after = dict(after)
        while True:
            try:
                for stream in streams:
                    if stream not in after:
                        newest = await self._redis.xrevrange(stream, count=1)
                        after[stream] = newest[0][0].decode() if newest else "0-0"
                pages = await read_after(self._redis, after, PAGE, BLOCK_MS)
                self.problems.update((one.number, None) for one in together)
            except RedisError as error:
                self.problems.update((one.number, f"the log cannot be read: {error}") for one in together)
                await asyncio.sleep(RETRY_S)
                continue
            for stream, page in pages.items():
                self._dispatch(page)
                after[stream] = page[-1][0].decode()

    def _dispatch(self, page: list[Entry]) -> None:
        if not self._waiting and not self._watching:
            return
        for _, fields in page:
            ends, decides = fields.get(b"type") in _ENDS, fields.get(b"type") in DECISIONS
            if not ends and not decides and not self._watching:
                continue
            try:
                raw = orjson.loads(fields[b"data"])
                subject = raw["subject"]
                for queue in self._watching.get(subject, ()):
                    _offer(queue, raw)
                if decides and subject in self._waiting:
                    self._decisions[subject] = said_of(raw["data"])
                if ends and subject in self._waiting:
                    # Read again where somebody watches: what this release does not know of it leaves `raw`.
                    watched = subject in self._watching
                    end = EVENTS.payload(fields[b"data"]) if watched else EVENTS.payload_of(raw)
                    result = result_from(end, raw.get("correlationid"))
                    for future in self._waiting[subject]:
                        if not future.done():
                            future.set_result(result)
            except (KeyError, TypeError, ValueError) as error:
                # Policy and ledger set it aside; here it only must not stop anybody.
                log.warning("event ignored", problem=str(error))


def _about(subject: str, fields: dict[bytes, bytes]) -> dict[str, Any] | None:
    """The event in an entry, if it is about this task."""
    data = fields.get(b"data", b"")
    if subject.encode() not in data:  # far quicker than reading every event
        return None
    try:
        event: dict[str, Any] = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and event.get("subject") == subject else None


def _offer(queue: asyncio.Queue[dict[str, Any]], event: dict[str, Any]) -> None:
    """Put it in; who reads too slowly loses the oldest, never the end."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
