"""Which webhooks are told of an event, and what. Pure.

A tenant's webhook is told of that tenant's events and of no others; the operators' of all. No message carries a prompt
or an answer: it says what happened, and by which ids to ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

import orjson

from services.ledger.intake import Record
from shared.control_state import Webhook, order_of
from shared.events.registry import EVENTS
from shared.events.results import END_EVENTS, result_of
from shared.money import to_cents

# Who did it is for the operators; what a version counts is for the books.
_NOT_FOR_TENANTS = ("actor",)
_NOT_TOLD = ("type", "version", "subject", "balances")
_AMOUNTS = ("spent", "cap", "threshold")


@dataclass(frozen=True, slots=True)
class Message:
    """What one webhook is told. The same event gives it the same id, however often it is sent."""

    webhook_id: str
    message_id: UUID
    tenant_id: UUID | None
    type: str
    body: str


def messages_of(record: Record, hooks: Iterable[Webhook]) -> list[Message]:
    """The messages that an event gives. Raises ValueError where the event cannot be read."""
    wanted = [hook for hook in hooks if _is_told(hook, record)]
    if not wanted:
        return []
    data = _data(record)
    if data is None:
        return []
    found = []
    for hook in wanted:
        hidden = () if hook.tenant_id is None else _NOT_FOR_TENANTS
        told = {name: value for name, value in data.items() if name not in hidden}
        body = {"type": record.type, "timestamp": record.time.isoformat(), "data": told}
        message_id = uuid5(record.id, hook.webhook_id)
        found.append(Message(hook.webhook_id, message_id, record.tenant_id, record.type, orjson.dumps(body).decode()))
    return found


def _is_told(hook: Webhook, record: Record) -> bool:
    return (
        record.type in hook.events
        and hook.tenant_id in (None, record.tenant_id)
        # Not of the past: the books may be behind, or begin anew.
        and order_of(record.entry_id)[0] >= hook.since_ms
    )


def _data(record: Record) -> dict[str, Any] | None:
    """What is told of an event; None where it is nothing worth telling."""
    about = {"event_id": record.id, "tenant_id": record.tenant_id, "user_id": record.user_id}
    if record.type in END_EVENTS:
        result = result_of(EVENTS.decode(record.body)).shown()
        return {**about, **{name: value for name, value in result.items() if name != "output_text"}}
    body = orjson.loads(record.body)
    said: Mapping[str, Any] = body if record.partition is None else body["data"]
    if record.type == "breaker.changed" and said["state"] == said["previous"]:
        return None  # it counted a failure
    told = {name: value for name, value in said.items() if name not in (*_NOT_TOLD, *_AMOUNTS)}
    amounts = {name: said[name] for name in _AMOUNTS if name in said}
    if said.get("unit", "money") == "money":  # others are plain numbers
        amounts = {f"{name}_cents": float(to_cents(amount)) for name, amount in amounts.items()}
    return {**about, **told, **amounts}
