"""A completion beside its text: kept without it, so that nothing is stored twice, and made whole again. Pure."""

from __future__ import annotations

from typing import Any


def without_text(completion: Any, text: str) -> dict[str, Any] | None:
    """The completion without the first message's content where that is `text`; None for what is no object."""
    if not isinstance(completion, dict):
        return None
    message = _first_message(completion)
    if not text or message is None or message.get("content") != text:
        return completion
    return _with_message(completion, {name: value for name, value in message.items() if name != "content"})


def with_text(completion: dict[str, Any], text: str) -> dict[str, Any]:
    """The completion as it was."""
    message = _first_message(completion)
    if not text or message is None or "content" in message:
        return completion
    return _with_message(completion, {**message, "content": text})


def _first_message(completion: dict[str, Any]) -> dict[str, Any] | None:
    choices = completion.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else None


def _with_message(completion: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    first, *others = completion["choices"]
    return {**completion, "choices": [{**first, "message": message}, *others]}
