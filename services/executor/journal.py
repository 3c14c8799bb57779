"""Writing what happens: the attempt before its call, the end after it. Each is one atomic step on the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.executor.delivery import Delivery
from services.executor.execution import Record
from shared.events.envelope import Envelope
from shared.events.outcomes import DecisionExpired
from shared.events.results import END_EVENTS, result_of
from shared.partitions import partition_for
from shared.settings import Settings
from shared.streams.growing import Partitions
from shared.streams.lease import Word
from shared.streams.passing import passes
from shared.streams.pipeline import ScriptPipeline
from shared.streams.script import script

T = TypeVar("T")

GROUP = "executor"
FIRST_RETRY_S = 0.02
LAST_RETRY_S = 1.0
_RECORD = ("decision", "state", "owner", "lost", "model")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the server said: `begun`, `done`, `superseded`; `ended`, `expired` or `attempting`, and by whom."""

    said: str
    who: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an end leaves in the cache."""

    watermark: int
    answer: bytes


class Journal:
    """One executor's writes to the log. They wait for a server that is away; how many wait is bounded by the room."""

    def __init__(self, redis: Redis, executor: str, settings: Settings, partitions: Partitions | None = None) -> None:
        self.pipeline = ScriptPipeline(redis)
        self._executor = executor
        self._partitions = partitions
        self._begin = script(redis, "services.executor", "begin")
        self._finish = script(redis, "services.executor", "finish")
        self._result_ttl_ms = settings.result_ttl_seconds * 1000
        self._cache_ttl_ms = settings.cache_ttl_seconds * 1000
        self._cache_bytes = settings.cache_max_bytes_per_tenant

    async def look(self, delivery: Delivery) -> Record:
        """What the task's record says."""
        key = delivery.partition.task(delivery.allowed.task.task_id)

        async def ask(again: bool) -> list[bytes | None]:
            reply: list[bytes | None] = await self.pipeline.command("HMGET", key, *_RECORD)
            return reply

        decision, state, owner, lost, model = ((word or b"").decode() for word in await self._insist(ask))
        return Record(decision, state, owner, int(lost or 0), model)

    async def begin(self, delivery: Delivery, number: int, event: Envelope) -> Verdict:
        """Record attempt `number`; only after `begun` may its call be made."""
        partition = delivery.partition
        keys = [partition.task(delivery.allowed.task.task_id), partition.outcomes, partition.decisions]
        data = event.to_json()
        moved = delivery.named if delivery.allowed.task.requested_model else ""

        async def ask(again: bool) -> list[bytes]:
            words: list[Word] = [str(delivery.decision_id), self._executor, number, GROUP, delivery.entry_id]
            reply: list[bytes] = await self.pipeline.run(
                self._begin, keys, [*words, event.type, data, "1" if again else "", moved]
            )
            return reply

        return _verdict(await self._insist(ask))

    async def finish(
        self,
        delivery: Delivery,
        owner: str,
        event: Envelope,
        *,
        flight: str | None = None,
        cache: Answered | None = None,
    ) -> Verdict:
        """End the delivery with `event`. `owner` is the executor whose attempt ends, or empty where none was begun.

        `flight` is the key of the flight that this task leads, and now frees. A second try after a lost reply is `done`
        if the first one was.
        """
        partition, task = delivery.partition, delivery.allowed.task
        record = partition.task(task.task_id)
        ends = event.type in END_EVENTS
        keys = [
            record,
            partition.outcomes,
            partition.decisions,
            delivery.cache or record,
            flight or record,
            partition.cached(delivery.tenant_id),
            partition.cached_sizes(delivery.tenant_id),
        ]
        lost = isinstance(event.data, DecisionExpired) and event.data.spend == "uncertain"
        words: list[Word] = [
            str(delivery.decision_id),
            owner,
            GROUP,
            delivery.entry_id,
            "ended" if ends else "expired",
            result_of(event).model_dump_json() if ends else "",
            self._result_ttl_ms,
            event.type,
            event.to_json(),
            str(task.task_id) if flight else "",
            cache.watermark if cache else "",
            cache.answer if cache else "",
            self._cache_ttl_ms,
            self._executor,
            "1" if lost else "",
            self._cache_bytes,
        ]

        async def ask(again: bool) -> Verdict:
            verdict = _verdict(await self.pipeline.run(self._finish, keys, words))
            done_before = again and verdict.said in ("ended", "expired") and verdict.who == self._executor
            return Verdict("done") if done_before else verdict

        return await self._insist(ask)

    async def append(self, delivery: Delivery, event: Envelope) -> None:
        """Add an event about a task that has ended already. It may be there twice; its id tells."""
        # Where its tenant is now: since the task ended the log may have grown.
        partition = delivery.partition
        if self._partitions is not None:
            partition = partition_for(delivery.tenant_id, self._partitions.number)

        async def ask(again: bool) -> Any:
            return await self.pipeline.command(
                "XADD", partition.outcomes, "*", "type", event.type, "data", event.to_json()
            )

        await self._insist(ask)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Nothing is left to do for this delivery."""

        async def ask(again: bool) -> Any:
            return await self.pipeline.command("XACK", delivery.partition.decisions, GROUP, delivery.entry_id)

        await self._insist(ask)

    async def _insist(self, ask: Callable[[bool], Awaitable[T]]) -> T:
        """Ask until there is a reply, or this executor stops. `ask` is told whether it was asked before."""
        wait_s, again = FIRST_RETRY_S, False
        while True:
            try:
                return await ask(again)
            except (RedisError, OSError) as error:
                # What is known is kept here until the server is back: a forgotten end is money unaccounted for.
                if not passes(error):
                    raise
                log.warning("the log is away; asks again", error=str(error), wait_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s, again = min(wait_s * 2, LAST_RETRY_S), True


def _verdict(reply: list[bytes]) -> Verdict:
    return Verdict(*(part.decode() for part in reply))
