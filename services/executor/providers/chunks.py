"""OpenAI's chunks: making them, and putting a streamed answer together again. Pure.

`fold` of all chunks of an answer is the completion that the same call would have given in one piece.
"""

from __future__ import annotations

from typing import Any

import orjson

from services.executor import storable
from services.executor.providers.protocol import Answer, Call, Chunk, Hear

# Of a chunk itself, or put together by its own rule below.
_OF_THE_CHUNK = frozenset({"object", "choices", "usage", "obfuscation"})
# Said once and meant once, though some servers repeat them in every chunk.
_NOT_JOINED = frozenset({"id", "type", "role", "index", "finish_reason", "name"})


class Assembly:
    """A completion, as far as it has come."""

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None

    def add(self, body: dict[str, Any]) -> None:
        """One more chunk."""
        for name, value in body.items():
            if name not in _OF_THE_CHUNK and value is not None:
                self._top[name] = value
        if body.get("usage"):
            self._usage = body["usage"]
        choices = body.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                self._add_choice(index if isinstance(index, int) else 0, choice)

    @property
    def is_finished(self) -> bool:
        """Whether a choice has said why it ends."""
        return any(choice.get("finish_reason") for choice in self._choices.values())

    def completion(self) -> dict[str, Any]:
        """What the chunks add up to."""
        usage = {} if self._usage is None else {"usage": self._usage}
        choices = [_whole_choice(self._choices[index]) for index in sorted(self._choices)]
        return {**self._top, "object": "chat.completion", "choices": choices, **usage}

    def _add_choice(self, index: int, choice: dict[str, Any]) -> None:
        kept = self._choices.setdefault(index, {"index": index, "message": {"role": "assistant", "content": None}})
        for name, value in choice.items():
            if name == "delta" and isinstance(value, dict):
                _merge(kept["message"], value)
            elif name != "index":
                _merge(kept, {name: value})
        kept.setdefault("finish_reason", None)


def _whole_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """Without the numbers by which the pieces of tool calls were told apart."""
    calls = choice["message"].get("tool_calls")
    if not isinstance(calls, list):
        return choice
    bare = [{key: item for key, item in one.items() if key != "index"} for one in calls if isinstance(one, dict)]
    return {**choice, "message": {**choice["message"], "tool_calls": bare}}


def _merge(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """Strings grow, objects are merged, lists are merged by their items' `index`; all else is replaced."""
    for name, value in delta.items():
        before = into.get(name)
        if isinstance(before, str) and isinstance(value, str) and name not in _NOT_JOINED:
            into[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        elif isinstance(value, list):
            into[name] = _merged(before if isinstance(before, list) else [], value)
        elif value is not None or name not in into:
            into[name] = storable.tree(value)  # a copy: what grows here must not be the chunk that somebody else reads


def _merged(before: list[Any], items: list[Any]) -> list[Any]:
    after = list(before)
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        same = [one for one in after if isinstance(one, dict) and one.get("index") == index]
        if index is not None and same:
            _merge(same[0], item)
        else:
            after.append(storable.tree(item))
    return after


def chunk(call: Call, delta: dict[str, Any] | None, *, finish: str | None = None, usage: Any = None) -> Chunk:
    """A chunk in OpenAI's format, from a provider that speaks another; `delta` None: only the usage."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    body: dict[str, Any] = {
        "id": f"chatcmpl-{call.idempotency_key}",
        "object": "chat.completion.chunk",
        "created": call.created_s,
        "model": call.model,
        "choices": choices,
    }
    if usage is not None:
        body["usage"] = usage
    return Chunk(body, orjson.dumps(storable.tree(body)))


def completion(
    call: Call,
    text: str,
    input_tokens: int,
    output_tokens: int,
    *,
    finish: str = "stop",
    message: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A completion in OpenAI's format, from a provider that speaks another; `message` has what is more than text."""
    answer = {"role": "assistant", "content": text, **(message or {})}
    return {
        "id": f"chatcmpl-{call.idempotency_key}",
        "object": "chat.completion",
        "created": call.created_s,
        "model": call.model,
        "choices": [{"index": 0, "message": answer, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        },
    }


def in_one_piece(answer: Answer, hear: Hear) -> Answer:
    """Say an answer that came whole (it has a `completion`) as the one chunk that it is."""
    hear(whole(answer.metadata["completion"]))
    return answer


def whole(raw: dict[str, Any]) -> Chunk:
    """The one chunk that says all of a completion."""
    choices = []
    for choice in raw.get("choices") or ():
        message = dict(choice.get("message") or {})
        if isinstance(calls := message.get("tool_calls"), list):
            message["tool_calls"] = [{"index": n, **one} for n, one in enumerate(calls)]
        rest = {name: value for name, value in choice.items() if name != "message"}
        choices.append({**rest, "delta": message})
    body = {**raw, "object": "chat.completion.chunk", "choices": choices}
    return Chunk(body, orjson.dumps(storable.tree(body)))
