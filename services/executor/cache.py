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
from shared.events.decisions import TaskAllowed
from shared.events.outcomes import TaskSucceeded, Usage
from shared.pricing import output_tokens
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


def answered(allowed: TaskAllowed, end: TaskSucceeded) -> Answered | None:
    """What to keep of an answer; None where it is not to be cached, or comes from there."""
    if end.was_cached or end.cache_key is None or _cut_short(allowed, end):
        return None
    kept = {
        "output_text": end.output_text,
        "reasoning_trace": end.reasoning_trace,
        "response_metadata": end.response_metadata,
    }
    return Answered(end.cache_watermark, orjson.dumps(kept))


def _cut_short(allowed: TaskAllowed, end: TaskSucceeded) -> bool:
    """Whether the answer ends at a limit that is no part of the question: what its caller, or the task's type, may
    spend, or a setting. Another who asks the same may have all of it."""
    whole = end.response_metadata.get("completion")
    if not isinstance(whole, dict) or allowed.max_output_tokens == output_tokens(allowed.task.prompt, 0):
        return False
    choices = [choice for choice in whole.get("choices") or () if isinstance(choice, dict)]
    return whole.get("status") == "incomplete" or any(choice.get("finish_reason") == "length" for choice in choices)
