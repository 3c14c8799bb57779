"""What the books keep of an event's texts, as its task says (`storage`). Pure.

It is applied once, before the event is hashed, stored and projected: nothing of the ledger's has more.
"""

from __future__ import annotations

from typing import Any

from shared.detectors import redact, redact_all
from shared.events.tasks import Storage
from shared.texts.payload import TEXTS, TREES, outline


def as_stored(payload: dict[str, Any], storage: Storage) -> dict[str, Any]:
    """The payload of an event, with its texts as they may be stored."""
    if storage == "full":
        return payload
    kept = dict(payload)
    task = payload.get("task")
    if isinstance(task, dict) and isinstance(task.get("prompt"), dict):
        kept["task"] = {**task, "prompt": _tree(task["prompt"], storage)}
    for name in TEXTS:
        if isinstance(payload.get(name), str):
            kept[name] = redact(payload[name]) if storage == "redacted" else ""
    for name in TREES:
        if payload.get(name) is not None:
            kept[name] = _tree(payload[name], storage)
    return kept


def _tree(value: Any, storage: Storage) -> Any:
    return redact_all(value) if storage == "redacted" else outline(value)
