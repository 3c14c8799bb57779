"""The exact cache, and single-flight: identical tasks in flight share one call. Keys always name tenant and user."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson
from redis.asyncio import Redis

from services.executor.delivery import Delivery
from services.executor.journal import Answered
from shared.events.outcomes import TaskSucceeded, Usage

# How often a task whose call another executor makes looks for the answer. In one executor it is woken instead.
LOOK_MS = 20
FLIGHT_GRACE_MS = 5000


class Cache:
    """Reads answers; they are written by the same step that ends the task (`finish.lua`)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._landed: dict[str, asyncio.Event] = {}

    async def lookup(self, delivery: Delivery) -> TaskSucceeded | None:
        """The cached answer to this task's question at its watermark, as its end; None for a miss."""
        task = delivery.allowed.task
        if task.cache_key is None:
            return None
        stored = await self._redis.hmget(delivery.partition.cache(task.cache_key), ["watermark", "answer"])
        if stored[0] is None or int(stored[0]) != task.cache_watermark:
            return None
        answer: dict[str, Any] = orjson.loads(stored[1])
        return TaskSucceeded(
            task=delivery.ref,
            decision_id=delivery.decision_id,
            was_cached=True,
            provider_attempted=False,
            output_text=answer["output_text"],
            reasoning_trace=answer["reasoning_trace"],
            response_metadata=answer["response_metadata"],
            usage=Usage(),
            cache_key=task.cache_key,
            cache_watermark=task.cache_watermark,
        )

    async def take_off(self, delivery: Delivery) -> bool:
        """True if this task is to make the call; False while an identical one is making it."""
        task = delivery.allowed.task
        assert task.cache_key is not None, "only tasks that use the cache fly together"
        key = delivery.partition.flight(task.cache_key)
        ttl_ms = delivery.allowed.timeout_ms + FLIGHT_GRACE_MS
        if not await self._redis.set(key, str(task.task_id), nx=True, px=ttl_ms):
            return False
        self._landed[task.cache_key] = asyncio.Event()
        return True

    def landed(self, delivery: Delivery) -> None:
        """The call is over, one way or another: wake those who wait here."""
        event = self._landed.pop(delivery.allowed.task.cache_key or "", None)
        if event is not None:
            event.set()

    async def wait(self, delivery: Delivery) -> None:
        """Until the identical call may be over."""
        event = self._landed.get(delivery.allowed.task.cache_key or "")
        if event is None:
            await asyncio.sleep(LOOK_MS / 1000)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(delivery.allowed.timeout_ms / 1000):
                await event.wait()


def answer_of(end: TaskSucceeded) -> Answered:
    """What to keep of an answer."""
    kept = {
        "output_text": end.output_text,
        "reasoning_trace": end.reasoning_trace,
        "response_metadata": end.response_metadata,
    }
    return Answered(end.cache_watermark, orjson.dumps(kept))
