"""The exact cache. Keys always name tenant and user; written by the same step that ends the task (`finish.lua`).

A purge begins another epoch: answers of the last one are not found any more, and leave by their time, or for others. An
answer belongs to the epoch in which it was asked for, so what is under way during a purge is not kept, either.
"""

from __future__ import annotations

from typing import Any

import orjson

from services.executor.delivery import Delivery
from services.executor.journal import Answered
from services.executor.metrics import CACHE_LOOKUPS
from shared.events.outcomes import TaskSucceeded, Usage
from shared.streams.pipeline import ScriptPipeline


class Cache:
    """Reads answers."""

    def __init__(self, pipeline: ScriptPipeline) -> None:
        self._pipeline = pipeline

    async def lookup(self, delivery: Delivery) -> TaskSucceeded | None:
        """The cached answer to this task's question at its watermark, as its end; None for a miss."""
        key = delivery.cache
        if key is None:
            return None
        stored: list[bytes | None] = await self._pipeline.command("HMGET", key, "watermark", "answer")
        found = answer_from(delivery, *stored)
        CACHE_LOOKUPS.labels("miss" if found is None else "hit").inc()
        return found


def answer_from(delivery: Delivery, watermark: bytes | None, stored: bytes | None) -> TaskSucceeded | None:
    """The end that a stored answer makes. Older and newer watermarks miss alike: they are other questions."""
    task = delivery.allowed.task
    if watermark is None or stored is None or int(watermark) != task.cache_watermark:
        return None
    answer: dict[str, Any] = orjson.loads(stored)
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


def answered(end: TaskSucceeded) -> Answered | None:
    """What to keep of an answer; None where it is not to be cached, or comes from there."""
    if end.was_cached or end.cache_key is None:
        return None
    kept = {
        "output_text": end.output_text,
        "reasoning_trace": end.reasoning_trace,
        "response_metadata": end.response_metadata,
    }
    return Answered(end.cache_watermark, orjson.dumps(kept))
