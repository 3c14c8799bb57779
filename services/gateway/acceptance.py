"""Accepting a task: the atomic step after which it is durable, and answered once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from redis.exceptions import RedisError

from services.gateway.recognition import Recognition
from services.gateway.replies import ReplyWriter
from shared.events.envelope import Envelope
from shared.events.results import TaskResult
from shared.events.tasks import TaskSubmitted
from shared.partitions import Partition, partition_for
from shared.settings import Settings
from shared.streams.client import LogClient
from shared.streams.growing import Partitions
from shared.streams.lease import Word
from shared.streams.partition_count import open_fence
from shared.streams.pipeline import ScriptPipeline
from shared.streams.script import script

# How often a closed partition is looked at, and after how long whoever waits tries by itself.
LOOK_S = 0.05
LONGEST_LOOK_S = 30.0


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of a submission; `result` where the task has ended already. `forgotten`: only the books know it.

    `closed`: the partition takes no new task just now. `elsewhere`: the log has another number of partitions than this
    gateway knows of.
    """

    status: Literal["accepted", "duplicate", "forgotten", "conflict", "full", "closed", "elsewhere"]
    result: TaskResult | None = None


class Acceptor:
    """Accepts tasks into the log."""

    def __init__(self, redis: LogClient, recognition: Recognition, partitions: Partitions, settings: Settings) -> None:
        self._recognition = recognition
        self._redis = redis
        self._pipeline = ScriptPipeline(redis)
        self._accept = script(redis, "services.gateway", "accept")
        self._partitions = partitions
        self._max_backlog = settings.max_backlog
        self._replies = ReplyWriter(redis, settings)
        self._looking: dict[int, asyncio.Task[None]] = {}

    async def accept(
        self,
        event: Envelope,
        *,
        named: bool,
        max_backlog: int | None = None,
        reply_to: str | None = None,
        patience_s: float = 0,
    ) -> Acceptance:
        """Claim and append, once; `max_backlog` for a lower bound than the configured one.

        `named`: the caller chose the request id, perhaps not for the first time. `reply_to`: where the result is to go,
        also of a task that has ended already. `patience_s`: how long a partition that is closed is waited for.
        Raises RedisError when the log cannot be reached: then submit it again.
        """
        deadline = asyncio.get_running_loop().time() + patience_s
        while True:
            acceptance = await self._accept_now(event, named, max_backlog, reply_to)
            left_s = deadline - asyncio.get_running_loop().time()
            if acceptance.status not in ("closed", "elsewhere") or left_s <= 0:
                return acceptance
            assert event.tenantid is not None, "asked before"
            await self.reopened(event.tenantid, left_s)

    async def reopened(self, tenant_id: UUID, seconds: float) -> None:
        """Until there is reason to try again. Whoever waits for the same partition waits for one look at it."""
        partition = partition_for(tenant_id, self._partitions.number)
        looking = self._looking.get(partition.number)
        if looking is None or looking.done():
            looking = self._looking[partition.number] = asyncio.create_task(self._look(partition))
        await asyncio.wait({looking}, timeout=seconds)

    async def _look(self, partition: Partition) -> None:
        count = self._partitions.number
        until = asyncio.get_running_loop().time() + LONGEST_LOOK_S
        while self._partitions.number == count and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(LOOK_S)
            with suppress(RedisError):  # who tries again then hears of it
                if await self._pipeline.command("GET", partition.fence) in (None, str(count).encode()):
                    return

    async def _accept_now(
        self, event: Envelope, named: bool, max_backlog: int | None, reply_to: str | None
    ) -> Acceptance:
        submitted = event.data
        assert isinstance(submitted, TaskSubmitted) and event.tenantid is not None
        task = submitted.task
        known = await self._recognition.fingerprint(task.task_id) if named else None
        count = self._partitions.number
        partition = partition_for(event.tenantid, count)
        keys = [
            partition.task(task.task_id),
            partition.tasks,
            partition.decisions,
            partition.replies,
            partition.fence,
        ]
        words: list[Word] = [
            task.fingerprint,
            str(event.tenantid),
            str(event.userid),
            task.request_id,
            task.task_type.value,
            event.correlationid or "",
            int(event.time.timestamp() * 1000),
            min(self._max_backlog, max_backlog or self._max_backlog),
            event.type,
            event.to_json(),
            "known" if known is not None else "",
            reply_to or "",
            count,
        ]
        reply: list[bytes] = await self._pipeline.run(self._accept, keys, words)
        if reply == [b"elsewhere", b""] and await open_fence(self._redis, partition, count):
            reply = await self._pipeline.run(self._accept, keys, words)
        match reply[0]:
            case b"accepted":
                return Acceptance("accepted")
            case b"duplicate":
                result = TaskResult.model_validate_json(reply[2]) if reply[2] else None
                if result is not None and reply_to is not None:
                    await self._replies.write(reply_to, result)
                return Acceptance("duplicate", result)
            case b"conflict":
                return Acceptance("conflict")
            case b"forgotten" if known != task.fingerprint:
                return Acceptance("conflict")
            case b"forgotten":
                return Acceptance("forgotten")
            case b"full":
                return Acceptance("full")
            case b"closed":
                return Acceptance("closed")
            case b"elsewhere":
                return Acceptance("elsewhere")
            case other:
                raise AssertionError(f"accept.lua said {other!r}")
