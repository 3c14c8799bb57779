"""Accepting a task: the atomic step after which it is durable, and answered once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from redis.asyncio import Redis

from shared.events.envelope import Envelope
from shared.events.results import TaskResult
from shared.events.tasks import TaskSubmitted
from shared.partitions import partition_for
from shared.settings import Settings
from shared.streams.connection import script
from shared.streams.pipeline import ScriptPipeline


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of a submission; `result` where the task has ended already."""

    status: Literal["accepted", "duplicate", "conflict", "full"]
    result: TaskResult | None = None


class Acceptor:
    """Accepts tasks into the log."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._pipeline = ScriptPipeline(redis)
        self._accept = script(redis, "services.gateway", "accept")
        self._partitions = settings.partitions
        self._max_backlog = settings.max_backlog

    async def accept(self, event: Envelope, max_backlog: int | None = None) -> Acceptance:
        """Claim and append, once; `max_backlog` for a lower bound than the configured one.

        Raises RedisError when the log cannot be reached: then submit it again.
        """
        submitted = event.data
        assert isinstance(submitted, TaskSubmitted) and event.tenantid is not None
        task = submitted.task
        partition = partition_for(event.tenantid, self._partitions)
        reply: list[bytes] = await self._pipeline.run(
            self._accept,
            [partition.task(task.task_id), partition.tasks, partition.decisions],
            [
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
            ],
        )
        match reply[0]:
            case b"accepted":
                return Acceptance("accepted")
            case b"duplicate":
                return Acceptance("duplicate", TaskResult.model_validate_json(reply[2]) if reply[2] else None)
            case b"conflict":
                return Acceptance("conflict")
            case b"full":
                return Acceptance("full")
            case other:
                raise AssertionError(f"accept.lua said {other!r}")
