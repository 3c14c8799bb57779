"""From Gemini's answers and their pieces to OpenAI's completions and chunks. Pure: what came may be anything."""

from __future__ import annotations

from typing import Any

import orjson

from services.executor import storable
from services.executor.providers.charge import count
from services.executor.providers.chunks import chunk
from services.executor.providers.protocol import Call, Chunk, ProviderFailure

# What is not named here ends an answer as `stop`.
FINISH = {
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
}
# What is counted beside the prompt, and paid for; absent where there was none.
_CHARGED = ("candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount")


def completion_of(raw: Any, call: Call) -> dict[str, Any]:
    """The completion in a response. Without an answer there are no choices, and the reader of completions says so.

    Raises ProviderFailure (`InvalidAnswer`) for what is no object.
    """
    if not isinstance(raw, dict):
        raise ProviderFailure("InvalidAnswer", "not a JSON object", spend="uncertain")
    found = {"id": raw.get("responseId"), "object": "chat.completion", "created": call.created_s}
    found["model"] = raw.get("modelVersion") or call.model
    candidate = _candidate(raw)
    if (usage := usage_of(raw.get("usageMetadata"), said=_says(_parts(candidate or {})))) is not None:
        found["usage"] = usage
    blocked = _dict(raw.get("promptFeedback")).get("blockReason")
    if candidate is None and blocked is None:
        return {**found, "choices": [], "error": raw.get("error") or raw.get("promptFeedback")}
    message: dict[str, Any] = {"role": "assistant", "content": None}
    parts = _parts(candidate or {})
    text, thought = _joined(parts, thought=False), _joined(parts, thought=True)
    calls = [_call(call, number, part) for number, part in enumerate(_functions(parts))]
    message["content"] = text if text or not calls else None
    message |= {"tool_calls": calls} if calls else {}
    message |= {"reasoning_content": thought} if thought else {}
    message |= {"refusal": f"the prompt was blocked: {blocked}"} if candidate is None else {}
    finish = "content_filter" if candidate is None else _finish(candidate.get("finishReason"), bool(calls))
    return {**found, "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}]}


def usage_of(usage: Any, *, said: bool) -> dict[str, Any] | None:
    """In OpenAI's names; None where a total is absent or cannot be true. Google counts thoughts beside the answer.

    It leaves out what is zero, which the answer's count cannot be where something was `said`.
    """
    if not isinstance(usage, dict) or count(usage.get("promptTokenCount")) is None:
        return None
    if any(count(usage.get(name, 0)) is None for name in _CHARGED) or (said and not usage.get("candidatesTokenCount")):
        return None
    inputs = _count(usage, "promptTokenCount") + _count(usage, "toolUsePromptTokenCount")
    thoughts = _count(usage, "thoughtsTokenCount")
    outputs = _count(usage, "candidatesTokenCount") + thoughts
    return {
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "total_tokens": inputs + outputs,
        "prompt_tokens_details": {"cached_tokens": _count(usage, "cachedContentTokenCount")},
        "completion_tokens_details": {"reasoning_tokens": thoughts},
    }


class Transcript:
    """The chunks that a stream of pieces comes to, one piece after another."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._usage: dict[str, Any] = {}
        self._calls = 0
        self._begun = self._said = False
        self.is_over = False

    def chunks(self, raw: dict[str, Any]) -> list[Chunk]:
        """What one piece says, if it says anything."""
        # Later counts stand for all that came before them.
        self._usage |= _dict(raw.get("usageMetadata"))
        found: list[Chunk] = []
        if not self._begun:
            self._begun = True
            found.append(chunk(self._call, {"role": "assistant", "content": ""}))
        candidate = _candidate(raw)
        if candidate is None:
            if (blocked := _dict(raw.get("promptFeedback")).get("blockReason")) is not None:
                self.is_over = True
                delta = {"refusal": f"the prompt was blocked: {blocked}"}
                found.append(chunk(self._call, delta, finish="content_filter"))
            return found
        parts = _parts(candidate)
        self._said = self._said or _says(parts)
        if thought := _joined(parts, thought=True):
            found.append(chunk(self._call, {"reasoning_content": thought}))
        if text := _joined(parts, thought=False):
            found.append(chunk(self._call, {"content": text}))
        for part in _functions(parts):
            one = {"index": self._calls, **_call(self._call, self._calls, part)}
            self._calls += 1
            found.append(chunk(self._call, {"tool_calls": [one]}))
        if (reason := candidate.get("finishReason")) is not None and not self.is_over:
            self.is_over = True
            found.append(chunk(self._call, {}, finish=_finish(reason, self._calls > 0)))
        return found

    def end(self) -> list[Chunk]:
        """The last one: what it consumed, where that was said."""
        usage = usage_of(self._usage, said=self._said)
        return [] if usage is None else [chunk(self._call, None, usage=usage)]


def _candidate(raw: dict[str, Any]) -> dict[str, Any] | None:
    candidates = raw.get("candidates")
    first = candidates[0] if isinstance(candidates, list) and candidates else None
    return first if isinstance(first, dict) else None


def _parts(candidate: dict[str, Any]) -> list[dict[str, Any]]:
    parts = _dict(candidate.get("content")).get("parts")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _joined(parts: list[dict[str, Any]], *, thought: bool) -> str:
    return "".join(str(part.get("text") or "") for part in parts if bool(part.get("thought")) is thought)


def _says(parts: list[dict[str, Any]]) -> bool:
    """Whether there is more than thoughts."""
    return bool(_joined(parts, thought=False) or _functions(parts))


def _functions(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for part in parts if isinstance(part.get("functionCall"), dict)]


def _call(call: Call, number: int, part: dict[str, Any]) -> dict[str, Any]:
    """Google need not name its calls; OpenAI's clients tell them apart by their names."""
    function = part["functionCall"]
    arguments = orjson.dumps(storable.tree(function.get("args") or {})).decode()
    found: dict[str, Any] = {
        "id": function.get("id") or f"call_{call.idempotency_key}_{number}",
        "type": "function",
        "function": {"name": function.get("name"), "arguments": arguments},
    }
    if (signature := part.get("thoughtSignature")) is not None:
        found["extra_content"] = {"google": {"thought_signature": signature}}
    return found


def _finish(reason: Any, called: bool) -> str:
    found = FINISH.get(reason, "stop") if isinstance(reason, str) else "stop"
    return "tool_calls" if called and found == "stop" else found


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(usage: dict[str, Any], name: str) -> int:
    return count(usage.get(name)) or 0
