"""Which members of an event, or of a row of the books, are texts; and what stands there instead of each. Pure.

A text becomes a token. A document (prompt, reasoning, metadata) becomes an object with `$encrypted`, beside what the
system itself reads: numbers, yes-or-no settings, the model's name and the boundary's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from shared.texts.cipher import DataKey, decrypt, encrypt, key_of

TEXTS = ("output_text", "detail")
TREES = ("reasoning_trace", "response_metadata")
ENCRYPTED = "$encrypted"
ERASED = "$erased"
"""Stands, with `true`, where a document's text cannot be read any more."""
# They say how the model was asked, and by what: not what was asked.
_NAMES_KEPT = frozenset({"model"})
_NAMES_BESIDE = frozenset({"model", "boundary_id"})


def outline(value: Any, names: frozenset[str] = _NAMES_KEPT) -> dict[str, Any] | None:
    """What is kept of a document whose texts are not; None for what is no object."""
    if not isinstance(value, dict):
        return None
    return {
        name: member
        for name, member in value.items()
        if isinstance(member, bool | int | float) or (name in names and isinstance(member, str))
    }


def has_texts(payload: BaseModel) -> bool:
    """Whether an event's payload has a text to hide."""
    names, has_task = _members(type(payload))
    if any(getattr(payload, name) for name in names):
        return True
    return has_task and bool(getattr(payload.task, "prompt", None))  # type: ignore[attr-defined]


@cache
def _members(kind: type[BaseModel]) -> tuple[tuple[str, ...], bool]:
    """Which texts such a payload may have, and whether it is about a task: to ask for what it cannot have is dear."""
    return tuple(name for name in (*TEXTS, *TREES) if name in kind.model_fields), "task" in kind.model_fields


def encrypted(payload: dict[str, Any], key: DataKey) -> dict[str, Any]:
    """The payload of an event about a task, with each text as a token."""
    task = payload["task"]
    task_id = str(task["task_id"])
    found = dict(payload)
    if task.get("prompt"):
        found["task"] = {**task, "prompt": _closed(key, task_id, "prompt", task["prompt"])}
    for name in TEXTS:
        if payload.get(name):
            found[name] = encrypt(key, task_id, name, payload[name].encode("utf-8", "surrogatepass"))
    for name in TREES:
        if payload.get(name):
            found[name] = _closed(key, task_id, name, payload[name])
    return found


def decrypted(payload: dict[str, Any], keys: Mapping[UUID, DataKey]) -> dict[str, Any]:
    """The payload as it was; a text whose key is not among them is empty, a document is its outline and `$erased`."""
    task = payload.get("task")
    if not isinstance(task, dict):
        return payload
    task_id = str(task.get("task_id"))
    found = dict(payload)
    if is_closed(task.get("prompt")):
        found["task"] = {**task, "prompt": open_tree(keys, task_id, "prompt", task["prompt"])}
    for name in TEXTS:
        if key_of(payload.get(name)) is not None:
            found[name] = open_text(keys, task_id, name, payload[name]) or ""
    for name in TREES:
        if is_closed(payload.get(name)):
            found[name] = open_tree(keys, task_id, name, payload[name])
    return found


def is_closed(value: object) -> bool:
    """Whether a document is encrypted."""
    return isinstance(value, dict) and key_of(value.get(ENCRYPTED)) is not None


def open_text(keys: Mapping[UUID, DataKey], task_id: str, field: str, token: str | None) -> str | None:
    """What a token says; None where its key is not there. What is no token stays."""
    key_id = key_of(token)
    if token is None or key_id is None:
        return token
    said = _opened(keys, task_id, field, token)
    return None if said is None else said.decode("utf-8", "replace")


def open_tree(keys: Mapping[UUID, DataKey], task_id: str, field: str, closed: dict[str, Any]) -> Any:
    """A document as it was; its outline with `$erased` where the key is not there."""
    said = _opened(keys, task_id, field, closed[ENCRYPTED])
    if said is not None:
        return orjson.loads(said)
    return {**{name: member for name, member in closed.items() if name != ENCRYPTED}, ERASED: True}


def _opened(keys: Mapping[UUID, DataKey], task_id: str, field: str, token: str) -> bytes | None:
    key_id = key_of(token)
    key = None if key_id is None else keys.get(key_id)
    return None if key is None else decrypt(key, task_id, field, token)


def _closed(key: DataKey, task_id: str, field: str, value: Any) -> dict[str, Any]:
    beside = outline(value, _NAMES_BESIDE) or {}
    return {**beside, ENCRYPTED: encrypt(key, task_id, field, orjson.dumps(value))}
