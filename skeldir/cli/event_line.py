"""An entry of any stream as one readable line. Pure, and takes whatever stands there: a fuzzed entry ends no tail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

from shared.money import to_cents
from shared.streams.read import Entry

MOST_CHARACTERS = 300
# What a person looks for, in this order; of each event those that it has.
SHOWN = (
    "reason", "how", "state", "previous", "percent", "unit", "window", "window_start", "mode", "hour", "spend", "by",
    "provider", "model", "to", "timeout_ms", "max_cost_cents", "max_tool_calls",
    "webhook_id", "key_id", "role", "url", "events", "hourly_cents", "monthly_cents", "cost_cents",
    "max_in_flight", "calls", "tokens", "cents", "minutes", "until", "origin", "entry_id", "detail",
)  # fmt: skip
_MONEY = ("settled", "spent", "cap", "threshold")


def read(entry: Entry) -> dict[str, Any]:
    """The event in an entry; of what is none, its type alone."""
    try:
        event = orjson.loads(entry[1].get(b"data", b""))
    except orjson.JSONDecodeError:
        event = None
    return event if isinstance(event, dict) else {"type": "unreadable"}


def concerns(event: Mapping[str, Any], tenant_id: UUID | None, request: str | None) -> bool:
    """Whether it is about this tenant (an order for everything is about each), and this request."""
    if request is not None:
        task = _dict(_payload(event).get("task"))
        if request not in (task.get("request_id"), event.get("request_id")):
            return False
    if tenant_id is None:
        return True
    if "dataschema" in event:  # an event with an envelope
        return event.get("tenantid") == str(tenant_id)
    scope = _dict(event.get("scope"))
    named = event.get("tenant_id") or scope.get("tenant_id") or scope.get("tenant")
    return named is None or str(named).lower() == str(tenant_id)


def where(event: Mapping[str, Any]) -> str:
    """What it is about: a request, else its subject."""
    return plain(_dict(_payload(event).get("task")).get("request_id") or event.get("subject") or "")


def said(event: Mapping[str, Any]) -> str:
    """What it says, as `name=value`. Neither prompts nor answers."""
    payload = _payload(event)
    found = [f"{name}={_value(payload[name])}" for name in SHOWN if payload.get(name) not in (None, "", [], {})]
    is_money = payload.get("unit", "money") == "money"
    found += [
        f"{name}={f'{to_cents(payload[name])}c' if is_money else payload[name]}"
        for name in _MONEY
        if isinstance(payload.get(name), int) and payload[name] >= 0
    ]
    usage = _dict(payload.get("usage"))
    if isinstance(usage.get("cost"), int) and usage["cost"] >= 0:
        found.append(f"cost={to_cents(usage['cost'])}c latency={usage.get('latency_ms', 0)}ms")
    if payload.get("was_cached"):
        found.append("cached")
    for name in ("scope", "actor"):
        if payload.get(name):
            found.append(f"{name}={_value(payload[name])}")
        elif name == "scope" and str(event.get("type")).startswith("kill_switch."):
            found.append("scope=everything")
    return plain(" ".join(found))


def without_prompt(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event as JSON for programs: whole but for the prompt."""
    payload = _payload(event)
    if not isinstance(payload.get("task"), dict):
        return dict(event)
    task = {name: value for name, value in payload["task"].items() if name != "prompt"}
    return {**event, "data": {**payload, "task": task}}


def plain(value: object) -> str:
    """Text that does nothing to a terminal: one line, bounded, and without control characters."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def _payload(event: Mapping[str, Any]) -> Mapping[str, Any]:
    return _dict(event["data"]) if "dataschema" in event and "data" in event else event


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{part}" for name, part in value.items() if part is not None) or "everything"
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    return str(value)
