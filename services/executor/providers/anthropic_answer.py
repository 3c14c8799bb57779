"""From Anthropic's messages and events to OpenAI's completions and chunks. Pure: what came may be anything."""

from __future__ import annotations

from typing import Any

import orjson

from services.executor import storable
from services.executor.providers.charge import count
from services.executor.providers.chunks import chunk
from services.executor.providers.failures import redacted
from services.executor.providers.protocol import Call, Chunk, ProviderFailure

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def completion_of(raw: Any, call: Call) -> dict[str, Any]:
    """The completion in a message. Without its content there are no choices, and the reader of completions says so.

    Raises ProviderFailure (`InvalidAnswer`) for what is no object.
    """
    if not isinstance(raw, dict):
        raise ProviderFailure("InvalidAnswer", "not a JSON object", spend="uncertain")
    usage = usage_of(raw.get("usage"))
    found = {"id": raw.get("id"), "object": "chat.completion", "created": call.created_s}
    found["model"] = raw.get("model") or call.model
    if usage is not None:
        found["usage"] = usage
    content = raw.get("content")
    if not isinstance(content, list):
        return {**found, "choices": [], "error": raw.get("error")}
    blocks = [block for block in content if isinstance(block, dict)]
    text, thought = _joined(blocks, "text", "text"), _joined(blocks, "thinking", "thinking")
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning_content": thought} if thought else {}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(raw.get("stop_reason"))}
    return {**found, "choices": [choice]}


def usage_of(usage: Any) -> dict[str, Any] | None:
    """In OpenAI's names; None where a total is absent or cannot be true. OpenAI's input includes what was cached."""
    if not isinstance(usage, dict):
        return None
    fresh, outputs = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    read, write = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    if fresh is None or outputs is None:
        return None
    inputs = fresh + read + write
    return {
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "total_tokens": inputs + outputs,
        "prompt_tokens_details": {
            "cached_tokens": read,
            "cache_write_tokens": write,
            "cache_write_1h_tokens": _count(usage.get("cache_creation"), "ephemeral_1h_input_tokens"),
        },
        "completion_tokens_details": {
            "reasoning_tokens": _count(usage.get("output_tokens_details"), "thinking_tokens")
        },
    }


class Transcript:
    """The chunks that a stream of events comes to, one event after another."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._usage: dict[str, Any] = {}
        self._tools: dict[Any, int] = {}
        self.is_over = False

    def chunks(self, event: dict[str, Any]) -> list[Chunk]:
        """What one event says, if it says anything. Raises ProviderFailure (`StreamError`)."""
        kind = event.get("type")
        if kind == "error":
            raise ProviderFailure("StreamError", redacted(storable.compact(event.get("error")), ()), spend="uncertain")
        if kind == "message_start":
            self._heed(_dict(event.get("message")).get("usage"))
            return [self._chunk({"role": "assistant", "content": ""})]
        if kind == "content_block_start":
            return self._block(event.get("index"), _dict(event.get("content_block")))
        if kind == "content_block_delta":
            return self._delta(event.get("index"), _dict(event.get("delta")))
        if kind == "message_delta":
            self._heed(event.get("usage"))
            reason = _dict(event.get("delta")).get("stop_reason")
            return [self._chunk({}, finish=_finish(reason))] if reason else []
        if kind == "message_stop":
            self.is_over = True
            usage = usage_of(self._usage)
            return [] if usage is None else [chunk(self._call, None, usage=usage)]
        return []

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> Chunk:
        return chunk(self._call, delta, finish=finish)

    def _heed(self, usage: Any) -> None:
        """Later counts stand for all that came before them."""
        self._usage |= {name: value for name, value in _dict(usage).items() if value is not None}

    def _block(self, index: Any, block: dict[str, Any]) -> list[Chunk]:
        if block.get("type") == "tool_use":
            number = self._tools[index] = len(self._tools)
            function = {"name": block.get("name"), "arguments": ""}
            one = {"index": number, "id": block.get("id"), "type": "function", "function": function}
            return [self._chunk({"tool_calls": [one]})]
        text = block.get("text") if block.get("type") == "text" else None
        return [self._chunk({"content": text})] if text else []

    def _delta(self, index: Any, delta: dict[str, Any]) -> list[Chunk]:
        kind = delta.get("type")
        if kind == "text_delta":
            return [self._chunk({"content": delta.get("text")})]
        if kind == "thinking_delta":
            return [self._chunk({"reasoning_content": delta.get("thinking")})]
        if kind == "input_json_delta":
            function = {"arguments": delta.get("partial_json")}
            return [self._chunk({"tool_calls": [{"index": self._tools.get(index, 0), "function": function}]})]
        return []


def _finish(reason: Any) -> str:
    return FINISH.get(reason, "stop") if isinstance(reason, str) else "stop"


def _joined(blocks: list[dict[str, Any]], kind: str, name: str) -> str:
    return "".join(str(block.get(name) or "") for block in blocks if block.get("type") == kind)


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(storable.tree(block.get("input") or {})).decode()
    return {"id": block.get("id"), "type": "function", "function": {"name": block.get("name"), "arguments": arguments}}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(usage: Any, name: str) -> int:
    return count(_dict(usage).get(name)) or 0
