"""OpenAI's `response` where nobody else made one, and the stream that a finished one would have been. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def response(
    task_id: str, model: str, text: str, input_tokens: int, output_tokens: int, created_s: int
) -> dict[str, Any]:
    """A completed response that says `text`, made at that time (seconds since the epoch)."""
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": f"msg_{task_id}", "status": "completed", "role": "assistant", "content": [part]}
    return {
        "id": f"resp_{task_id}",
        "object": "response",
        "created_at": created_s,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": input_tokens + output_tokens,
        },
    }


def events_of(whole: dict[str, Any], pieces: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The events of its stream, in order; `pieces`: how its first text comes, where not all at once."""
    said: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": [], "usage": None}}
    ]
    for index, item in enumerate(whole.get("output") or ()):
        if isinstance(item, dict):
            said += _item(index, item, pieces)
            pieces = None
    last = "incomplete" if whole.get("status") == "incomplete" else "completed"
    said.append({"type": f"response.{last}", "response": whole})
    for number, event in enumerate(said):
        yield {**event, "sequence_number": number}


def _item(index: int, item: dict[str, Any], pieces: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    place = {"output_index": index, "item_id": item.get("id")}
    content = item.get("content")
    parts = content if item.get("type") == "message" and isinstance(content, list) else []
    begun = {**item, "status": "in_progress"}
    if parts:
        begun["content"] = []
    if item.get("type") == "function_call":
        begun["arguments"] = ""
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    for number, part in enumerate(parts):
        yield from _part({**place, "content_index": number}, part, pieces if number == 0 else None)
    if item.get("type") == "function_call":
        arguments = item.get("arguments", "")
        yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": arguments}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _part(place: dict[str, Any], part: dict[str, Any], pieces: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    text = part.get("text")
    if part.get("type") != "output_text" or not isinstance(text, str):
        yield {"type": "response.content_part.added", **place, "part": part}
    else:
        yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
        for piece in [text] if pieces is None else pieces:
            yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}
