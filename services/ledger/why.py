"""Why a task ended as it did, from its events: the decision, the rule, and the state and limits that it saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from shared.money import to_cents

# Amounts in an explanation are nanocents, as everywhere in events; a quota's only where it counts money.
AMOUNTS = ("spent", "reserved", "cap", "threshold", "wanted", "limit")

Event = Mapping[str, Any]
EventT = TypeVar("EventT", bound=Event)


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
        return {**found, "sentence": _moved(events, data) + sentence(data["reason"], data["rule"], seen)}
    found["limits"] = [_balance(balance) for balance in data.get("balances", [])]
    found["quotas"] = [_plain(quota) for quota in data.get("quotas", [])]
    found["reserved_cents"] = to_cents(data["reservation"]["amount"])
    passed = "Every rule let it pass; its worst-case cost was reserved under each limit."
    return {**found, "sentence": _moved(events, data) + _passed_over(data) + passed}


def as_caused(events: Iterable[EventT]) -> list[EventT]:
    """Events that are in the order of their times, each behind the one that caused it.

    Services agree on the time to some milliseconds: what was permitted can have begun "before" its permission.
    """
    found = list(events)
    ahead, told = {event["id"] for event in found}, list[EventT]()
    behind: defaultdict[Any, list[EventT]] = defaultdict(list)
    for event in found:
        if event["causation_id"] in ahead:
            behind[event["causation_id"]].append(event)
            continue
        free = [event]
        while free:
            told.append(one := free.pop(0))
            ahead.discard(one["id"])
            free += behind.pop(one["id"], [])
    return told + [event for waiting in behind.values() for event in waiting]


def _moved(events: Sequence[Event], decision: Mapping[str, Any]) -> str:
    """Where the decision is about a cheaper model than was asked for: that, and why."""
    task = decision.get("task") or {}
    asked, named = task.get("requested_model"), f"{task.get('provider')}:{task.get('model')}"
    last = next((one["data"] for one in reversed(events) if one["type"] == "task.downgraded"), None)
    if asked in (None, named) or last is None:
        return ""
    seen = _balance(last["balance"])
    used = f"{seen['used_cents']} of {seen['cap_cents']} cents in this {seen['window']}"
    return f"It was moved from {asked} to {named}: the {seen['scope']} had used {used}. "


def _passed_over(decision: Mapping[str, Any]) -> str:
    """Where an alternative took the place of a model that could not be called: that, and why."""
    over = decision.get("passed_over")
    if over is None:
        return ""
    task, why = decision["task"], over["reason"].replace("_", " ")
    return f"{task['provider']}:{task['model']} took the place of {over['provider']}:{over['model']} ({why}). "


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
        case _, "max_tool_calls_exceeded":
            return (
                f"The conversation held {saw.get('tool_calls')} tool calls; its task type may have {saw.get('bound')}."
            )
        case _, "quota_exceeded":
            return _quota(saw)
        case _, "provider_breaker_open":
            return f"The circuit breaker of {saw.get('provider')}:{saw.get('model')} was open, for every tenant."
        case _, "breaker_open":
            failures = f" after {saw['failures']} failures in a row" if saw.get("failures") else ""
            return f"The user's circuit breaker was open{failures}: the provider was not called."
        case _, "control_stale":
            return "Orders could not be read in time, and what may have been stopped is not called."
        case (("manual_shutoff" | "executor"), _) if "until_ms" in saw:
            return f"A manual shutoff of this user was engaged by {by}."
    return _as_sentence(str(saw["problem"])) if "problem" in saw else f"The rule {rule} refused it."


def _as_sentence(problem: str) -> str:
    return f"{problem[:1].upper()}{problem[1:]}."


def _no_room(whose: str, window: str, saw: Mapping[str, Any], cap: Any) -> str:
    spent, reserved = saw.get("spent_cents", 0), saw.get("reserved_cents", 0)
    text = f"The {whose} had spent {spent} of {cap} cents in this {window}"
    if "wanted_cents" in saw:
        return f"{text}, and {reserved} were reserved; up to {saw['wanted_cents']} more did not fit."
    return f"{text}: nothing more goes out until it ends."


def _quota(saw: Mapping[str, Any]) -> str:
    money, unit = saw.get("unit") == "money", str(saw.get("unit")).replace("_", " ")
    used, reserved, limit, wanted = (
        saw.get(f"{name}_cents" if money else name, 0) for name in ("spent", "reserved", "limit", "wanted")
    )
    window = f" in this {saw['window']}" if saw.get("window") else ""
    named = "cents" if money else unit
    what = f"{limit} {named.removesuffix('s') if limit == 1 else named}{window}"
    return f"A quota of {what} had {used} used and {reserved} reserved; {wanted} more did not fit."


def _plain(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What a rule saw, with its amounts in cents, so named."""
    amounts = AMOUNTS if seen.get("unit", "money") == "money" else ()
    found: dict[str, Any] = {}
    for name, value in seen.items():
        if name in amounts and isinstance(value, int):
            found[f"{name}_cents"] = to_cents(value)
        else:
            found[name] = value
    return found


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
