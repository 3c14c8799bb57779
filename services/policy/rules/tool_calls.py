"""How many tool calls a conversation may hold: it stops an agent that goes round and round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.policy.rules import Book, Circumstances, Refusal, Request
from shared.events.decisions import BlockReason
from shared.unbounded import items

_CALLS = ("function_call", "custom_tool_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")


def check(_: Book, request: Request, __: Circumstances) -> Refusal | None:
    """Refuse a conversation that holds more than its task type's bound; where that is 0, also one that offers tools.

    With exactly as many as the bound the model is asked once more: for its answer.
    """
    bound = request.bounds.max_tool_calls
    if bound is None:
        return None
    prompt = request.task.prompt
    calls = held(prompt)
    if calls <= bound and (bound > 0 or not (prompt.get("tools") or prompt.get("functions"))):
        return None
    seen = {"task_type": request.task.task_type.value, "tool_calls": calls, "bound": bound}
    return Refusal(BlockReason.MAX_TOOL_CALLS, seen)


def held(prompt: Mapping[str, Any]) -> int:
    """The tool calls in a chat's messages or a response's items; where more results are there than calls, those."""
    calls = results = 0
    for item in items(prompt):
        asked = item.get("tool_calls")
        calls += len(asked) if isinstance(asked, list) else 0
        calls += bool(item.get("function_call")) or item.get("type") in _CALLS
        results += item.get("role") in ("tool", "function") or item.get("type") in _RESULTS
    return max(calls, results)
