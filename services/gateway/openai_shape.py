"""A task's result in OpenAI's shapes: a completion, its chunks, embeddings, or an error. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from services.gateway.problems import Problem
from shared.events.completion import with_text
from shared.events.decisions import BlockReason
from shared.events.results import WHAT_TO_DO, TaskResult

DONE = b"data: [DONE]\n\n"
CUT = "stream_cut:"
GUARD = "guard_"

_STOPPED = frozenset(
    {
        BlockReason.KILL_SWITCH,
        BlockReason.BREAKER_OPEN,
        BlockReason.PROVIDER_BREAKER_OPEN,
        BlockReason.CONTROL_STALE,
        BlockReason.POLICY_ERROR,
        BlockReason.LOG_LOST,
    }
)
_INVALID = frozenset(
    {BlockReason.UNPRICED, BlockReason.UNKNOWN_PROVIDER, BlockReason.MAX_COST, BlockReason.MAX_TOOL_CALLS}
)
_OURS_TO_SAY = frozenset({"hold_reached", "client_left"})


def problem_of(result: TaskResult) -> Problem | None:
    """Why the task gave no answer; None where it did. To ask again by itself would be another task."""
    if result.status == "blocked":
        reason = result.blocked_reason or "blocked"
        detail = f"blocked by policy: {reason} (task {result.task_id}){_advice(reason)}"
        return Problem(_status(reason), reason, detail, retry=False)
    if result.status == "failed":
        reason = result.failure_reason or "failed"
        if reason.startswith(CUT):
            reason = reason.removeprefix(CUT)
            status = 502 if reason in _OURS_TO_SAY else _status(reason)
            return Problem(status, reason, f"the stream was cut: {reason} (task {result.task_id})", retry=False)
        detail = f"the provider failed: {reason} (task {result.task_id}){_advice(reason)}"
        return Problem(504 if reason == "provider_timeout" else 502, reason, detail, retry=False)
    return None


def _advice(reason: str) -> str:
    return f"; {WHAT_TO_DO[reason]}" if reason in WHAT_TO_DO else ""


def _status(reason: str) -> int:
    return 400 if reason in _INVALID or reason.startswith(GUARD) else 503 if reason in _STOPPED else 429


def completion(result: TaskResult, now_s: int) -> dict[str, Any]:
    """The answer as its provider gave it; put together from the result where that spoke another language."""
    if result.completion is not None:
        return with_text(result.completion, result.output_text or "")
    message = {"role": "assistant", "content": result.output_text}
    return {
        "id": f"chatcmpl-{result.task_id}",
        "object": "chat.completion",
        "created": now_s,
        "model": result.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(result),
    }


def chunks(result: TaskResult, now_s: int, *, usage: bool) -> Iterator[bytes]:
    """An answer that is there already, as the stream that it would have been: in one piece."""
    whole = completion(result, now_s)
    base = {name: value for name, value in whole.items() if name not in ("choices", "usage")}
    base["object"] = "chat.completion.chunk"
    for choice in whole.get("choices") or ():
        message = dict(choice.get("message") or {})
        if isinstance(calls := message.get("tool_calls"), list):
            message["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        rest = {name: value for name, value in choice.items() if name not in ("message", "finish_reason")}
        yield sse({**base, "choices": [{**rest, "delta": message, "finish_reason": None}]})
        yield sse({**base, "choices": [{**rest, "delta": {}, "finish_reason": choice.get("finish_reason")}]})
    if usage:
        yield sse({**base, "choices": [], "usage": whole.get("usage") or _usage(result)})
    yield DONE


def is_usage(piece: bytes) -> bool:
    """Whether a provider's chunk says nothing but the usage, for which perhaps only we have asked."""
    if b'"usage"' not in piece or b'"delta"' in piece:  # each piece has a usage, with some; read would be all of them
        return False
    body: Any = orjson.loads(piece)
    return body.get("choices") == [] and body.get("usage") is not None


def sse(body: dict[str, Any]) -> bytes:
    """One event of the stream."""
    return b"data: %s\n\n" % orjson.dumps(body)


def _usage(result: TaskResult) -> dict[str, int]:
    inputs, outputs = result.usage.input_tokens, result.usage.output_tokens
    return {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}
