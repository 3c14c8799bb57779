"""Writing what happens: the attempt before its call, the end after it. Each is one atomic step on the server."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis

from services.executor.delivery import Delivery
from shared.events.envelope import Envelope
from shared.events.results import END_EVENTS, result_of
from shared.settings import Settings
from shared.streams.connection import script
from shared.streams.pipeline import ScriptPipeline

GROUP = "executor"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the server said: `begun`, `done`, `ended`, `expired`, `superseded`, or `attempting` by `owner`."""

    said: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an end leaves in the cache."""

    watermark: int
    answer: bytes


class Journal:
    """The executor's writes to one log."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._pipeline = ScriptPipeline(redis)
        self._redis = redis
        self._begin = script(redis, "services.executor", "begin")
        self._finish = script(redis, "services.executor", "finish")
        self._result_ttl_ms = settings.result_ttl_seconds * 1000
        self._cache_ttl_ms = settings.cache_ttl_seconds * 1000

    async def begin(self, delivery: Delivery, executor: str, attempt_no: int, event: Envelope) -> Verdict:
        """Record an attempt; only after `begun` may its call be made."""
        partition = delivery.partition
        return _verdict(
            await self._pipeline.run(
                self._begin,
                [partition.task(delivery.allowed.task.task_id), partition.outcomes, partition.decisions],
                [
                    str(delivery.decision_id), executor, attempt_no, GROUP, delivery.entry_id,
                    event.type, event.to_json(),
                ],
            )
        )  # fmt: skip

    async def finish(
        self,
        delivery: Delivery,
        owner: str,
        event: Envelope,
        *,
        leads_flight: bool = False,
        cache: Answered | None = None,
    ) -> Verdict:
        """End the delivery with `event`. `owner` is the executor whose attempt ends, or empty where none was begun."""
        partition, task = delivery.partition, delivery.allowed.task
        record = partition.task(task.task_id)
        ends = event.type in END_EVENTS
        key = task.cache_key
        return _verdict(
            await self._pipeline.run(
                self._finish,
                [
                    record, partition.outcomes, partition.decisions,
                    partition.cache(key) if key else record, partition.flight(key) if key else record,
                ],
                [
                    str(delivery.decision_id), owner, GROUP, delivery.entry_id,
                    "ended" if ends else "expired", result_of(event).model_dump_json() if ends else "",
                    self._result_ttl_ms, event.type, event.to_json(),
                    str(task.task_id) if leads_flight else "",
                    cache.watermark if cache else "", cache.answer if cache else "", self._cache_ttl_ms,
                ],
            )
        )  # fmt: skip

    async def append(self, delivery: Delivery, event: Envelope) -> None:
        """Add an event about a task that has ended already (what became of an uncertain attempt)."""
        await self._redis.xadd(delivery.partition.outcomes, event.to_entry())


def _verdict(reply: list[bytes]) -> Verdict:
    return Verdict(*(part.decode() for part in reply))
