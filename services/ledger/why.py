"""Why a task ended as it did, from its events: the decision, the rule, and the state and limits that it saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from shared.money import to_cents

# Amounts in an explanation are nanocents, as everywhere in events.
AMOUNTS = ("spent", "reserved", "cap", "threshold", "wanted", "settled", "overrun", "max_cost")

Event = Mapping[str, Any]


def verdict(events: Sequence[Event]) -> dict[str, Any] | None:
    """The last decision about a task: what was decided, by which rule, and what that rule saw; None before one.

    `events` are rows with `type`, `time`, `id` and `data`, in the order in which they happened.
    """
    for event in reversed(events):
        if event["type"] in ("task.blocked", "task.allowed"):
            break
    else:
        return None
    data = event["data"]
    found: dict[str, Any] = {
        "event_id": event["id"],
        "time": event["time"],
        "decision": event["type"].rpartition(".")[2],
        "breaker_state": data.get("breaker_state"),
        "control_position": data.get("control_position"),
    }
    if event["type"] == "task.blocked":
        seen = _plain(data.get("explanation") or {})
        found |= {"reason": data["reason"], "rule": data["rule"], "saw": seen}
        return {**found, "sentence": sentence(data["reason"], data["rule"], seen)}
    found["limits"] = [_balance(balance) for balance in data.get("balances", [])]
    found["reserved_cents"] = to_cents(data["reservation"]["amount"])
    return {**found, "sentence": "Every rule let it pass; its worst-case cost was reserved under each limit."}


def sentence(reason: str, rule: str, saw: Mapping[str, Any]) -> str:
    """The refusal in one plain sentence."""
    whose = "tenant" if saw.get("scope") == "tenant" else "user"
    by = saw.get("actor", "an operator")
    match rule, reason:
        case _, "provider_kill_switch":
            if "asked_by" in saw:
                return "The task's own prompt asked to be stopped."
            return f"A kill switch was engaged by {by}: {saw.get('reason', 'no reason given')}"
        case "hourly_shutoff" | "hourly_limit", "hourly_threshold_exceeded":
            return _no_room(whose, "hour", saw, saw.get("threshold_cents"))
        case _, "monthly_cap_exceeded":
            return _no_room(whose, "month", saw, saw.get("cap_cents"))
        case _, "max_in_flight_exceeded":
            return f"The {whose} had {saw.get('in_flight')} tasks under way, and may have {saw.get('bound')}."
        case _, "breaker_open":
            failures = f" after {saw['failures']} failures in a row" if saw.get("failures") else ""
            return f"The user's circuit breaker was open{failures}: the provider was not called."
        case _, "control_stale":
            return "Orders could not be read in time, and what may have been stopped is not called."
        case (("manual_shutoff" | "executor"), _) if "until_ms" in saw:
            return f"A manual shutoff of this user was engaged by {by}."
    return f"{saw['problem']}." if "problem" in saw else f"The rule {rule} refused it."


def _no_room(whose: str, window: str, saw: Mapping[str, Any], cap: Any) -> str:
    spent, reserved = saw.get("spent_cents", 0), saw.get("reserved_cents", 0)
    text = f"The {whose} had spent {spent} of {cap} cents in this {window}"
    if "wanted_cents" in saw:
        return f"{text}, and {reserved} were reserved; up to {saw['wanted_cents']} more did not fit."
    return f"{text}: nothing more goes out until it ends."


def _plain(explanation: Mapping[str, Any]) -> dict[str, Any]:
    """The explanation with its amounts in cents, so named."""
    return {
        f"{name}_cents" if _is_amount(name, value) else name: to_cents(value) if _is_amount(name, value) else value
        for name, value in explanation.items()
    }


def _is_amount(name: str, value: Any) -> bool:
    return name in AMOUNTS and isinstance(value, int) and not isinstance(value, bool)


def _balance(balance: Mapping[str, Any]) -> dict[str, Any]:
    cap: int | None = balance.get("cap")
    after: Decimal = to_cents(balance["spent"] + balance["reserved"])
    return {
        "scope": balance["scope"],
        "window": balance["window"],
        "window_start": balance["window_start"],
        "spent_cents": to_cents(balance["spent"]),
        "reserved_cents": to_cents(balance["reserved"]),
        "used_cents": after,
        "cap_cents": None if cap is None else to_cents(cap),
    }
