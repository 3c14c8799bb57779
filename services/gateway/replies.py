"""Results for producers that named a stream for them (`reply_to`): appended once the task has ended.

One gateway at a time, under a lease, follows a partition's ends, and moves its position when their replies are written:
a crash in between writes some again, and loses none. Which stream is wanted stands on the task's record (accept.lua),
beside the result, so a partition in which nobody ever wanted a reply is not read at all.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from services.gateway.metrics import REPLIES
from shared.events.decisions import TaskBlocked
from shared.events.outcomes import TaskFailed, TaskSucceeded
from shared.events.results import END_EVENTS, TaskResult
from shared.partitions import Partition
from shared.settings import Settings
from shared.streams.dead_letters import dead_letter
from shared.streams.growing import Partitions
from shared.streams.lease import Lease, Word
from shared.streams.passing import passes
from shared.streams.pipeline import ScriptPipeline
from shared.streams.read import BLOCK_MS, Entry, read_after
from shared.streams.script import script

PAGE = 500
# How often a partition is asked whether anybody wants replies, or its lease has become free.
LOOK_S = 0.5

log = structlog.get_logger(__name__)

_ENDS = frozenset(name.encode() for name in END_EVENTS)
_TYPES = {
    "success": TaskSucceeded.event_type,
    "failed": TaskFailed.event_type,
    "blocked": TaskBlocked.event_type,
}


class ReplyWriter:
    """Appends results to reply streams."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._pipeline = ScriptPipeline(redis)
        self._reply = script(redis, "services.gateway", "reply")
        self._bounds = (settings.replies_max_length, settings.replies_ttl_seconds * 1000)

    async def write(self, stream: str, result: TaskResult) -> None:
        """Append it. What the server refuses for this stream is put into the dead letters. Raises RedisError."""
        event_type, data = _TYPES[result.status], orjson.dumps(result.shown())
        about: list[Word] = [event_type, str(result.task_id), result.request_id, data]
        try:
            await self._pipeline.run(self._reply, [stream], [*self._bounds, *about])
        except ResponseError as error:
            if passes(error):
                raise
            log.warning("reply refused", stream=stream, task_id=str(result.task_id), problem=str(error))
            fields = {b"type": event_type.encode(), b"data": data}
            await self._pipeline.command(*dead_letter(stream, str(result.task_id), fields, f"no reply: {error}"))
            REPLIES.labels("refused").inc()
            return
        REPLIES.labels("written").inc()


class Replies:
    """Follows the ends of every partition in which somebody wants replies."""

    def __init__(self, redis: Redis, owner: str, partitions: Partitions, settings: Settings) -> None:
        self._redis = redis
        self._pipeline = ScriptPipeline(redis)
        self._writer = ReplyWriter(redis, settings)
        self._owner = owner
        self._partitions = partitions
        self._settings = settings

    async def run(self) -> None:
        """Serve every partition, until cancelled."""
        await self._partitions.each(self._serve)

    async def _serve(self, partition: Partition) -> None:
        lease = Lease(self._redis, partition.lease("replies"), self._owner, self._settings.lease_ttl_ms)
        while True:
            try:
                if await self._positions(partition) and (token := await lease.take()):
                    await self._lead(partition, lease, token)
            except RedisError as error:
                log.warning("replies wait", partition=partition.number, problem=str(error))
            await asyncio.sleep(LOOK_S)

    async def _lead(self, partition: Partition, lease: Lease, token: int) -> None:
        """Until the lease is lost. Another gateway then begins at the position; what both reply comes twice."""
        loop = asyncio.get_running_loop()
        hold_s = self._settings.lease_ttl_ms / 4000
        positions, renew_at = await self._positions(partition), loop.time() + hold_s
        while positions:
            if loop.time() >= renew_at:
                if await lease.renew() != token:
                    return
                renew_at = loop.time() + hold_s
            pages = await read_after(self._redis, positions, PAGE, min(BLOCK_MS, self._settings.lease_ttl_ms // 2))
            for name, page in pages.items():
                await self._reply(partition, page)
                positions[name] = page[-1][0].decode()
            if pages:
                moved = [word for name in pages for word in (name.rpartition(":")[2], positions[name])]
                await self._pipeline.command("HSET", partition.replies, *moved)

    async def _positions(self, partition: Partition) -> dict[str, str]:
        """Stream -> the last entry that was dealt with; empty where nobody has wanted a reply."""
        found: dict[bytes, bytes] = await self._pipeline.command("HGETALL", partition.replies)
        streams = {b"decisions": partition.decisions, b"outcomes": partition.outcomes}
        return {stream: found[name].decode() for name, stream in streams.items() if name in found}

    async def _reply(self, partition: Partition, page: list[Entry]) -> None:
        """Write the replies that the page's ends call for."""
        tasks = [task for _, fields in page if fields.get(b"type") in _ENDS and (task := _task(fields))]
        await asyncio.gather(*(self._answer(partition, task) for task in tasks))

    async def _answer(self, partition: Partition, task_id: UUID) -> None:
        stream, stored = await self._pipeline.command("HMGET", partition.task(task_id), "reply_to", "result")
        if not stream or not stored:
            return
        try:
            result = TaskResult.model_validate_json(stored)
        except ValueError as error:  # of another release, perhaps; it must not keep the others from being answered
            log.error("result cannot be read", task_id=str(task_id), error=type(error).__name__)
            return
        await self._writer.write(stream.decode(), result)


def _task(fields: dict[bytes, bytes]) -> UUID | None:
    """The task that an end is about; None for what cannot be read (policy and ledger set it aside)."""
    try:
        return UUID(orjson.loads(fields[b"data"])["subject"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
