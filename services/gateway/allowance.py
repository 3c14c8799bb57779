"""What remains of the limits, as response headers: of the decision about the task that is answered. Pure."""

from __future__ import annotations

import math
from typing import Any

from shared.events.results import TaskResult
from shared.money import to_cents

DECISIONS = frozenset({b"task.allowed", b"task.blocked"})
_SAID = ("balances", "quotas", "explanation")
# OpenAI's names, which its clients and others know.
_NAMES = {"calls": "requests", "tokens": "tokens"}


def said_of(decision: dict[str, Any]) -> dict[str, Any]:
    """What of a decision, as it stands in the log, is worth keeping for the headers."""
    task = decision["task"]
    said = {name: decision.get(name) for name in _SAID}
    if task.get("requested_model"):
        said |= {"requested_model": task["requested_model"], "model": f"{task['provider']}:{task['model']}"}
    return said


def model_of(result: TaskResult | None) -> dict[str, str]:
    """The headers that say which model answered, where it is another than was asked for: after the decision, too."""
    if result is None or result.requested_model is None:
        return {}
    return {"x-skeldir-model": f"{result.provider}:{result.model}", "x-skeldir-requested-model": result.requested_model}


def headers_of(decision: dict[str, Any], now_ms: int) -> dict[str, str]:
    """The headers for what a decision says (`said_of`). What this task holds counts as used.

    Of several quotas the one speaks of which least remains. One in shadow mode bounds nothing.
    """
    refused = decision.get("explanation") or {}
    quotas = [one for one in decision.get("quotas") or () if not one.get("shadow")]
    if "unit" in refused:
        quotas.append(refused)
    found: dict[str, str] = {}
    for unit, name in _NAMES.items():
        if of_unit := [one for one in quotas if one["unit"] == unit]:
            least = min(of_unit, key=_left)
            found[f"x-ratelimit-limit-{name}"] = str(least["limit"])
            found[f"x-ratelimit-remaining-{name}"] = str(_left(least))
            found[f"x-ratelimit-reset-{name}"] = _duration(least["resets_at_ms"] - now_ms)
    money = [
        _left({**one, "limit": one["cap"]}) for one in decision.get("balances") or () if one.get("cap") is not None
    ]
    money += [_left(one) for one in quotas if one["unit"] == "money"]
    if money:
        found["x-skeldir-remaining-cents"] = f"{to_cents(min(money)):f}"
    if "requested_model" in decision:
        found["x-skeldir-model"] = decision["model"]
        found["x-skeldir-requested-model"] = decision["requested_model"]
    if (free_s := _free_in_s(refused, now_ms)) is not None:
        found["retry-after"] = str(free_s)
    return found


def _free_in_s(refused: dict[str, Any], now_ms: int) -> int | None:
    """When to ask again: as the window, the shutoff or the open time ends."""
    ends_ms: int | None = refused.get("resets_at_ms", refused.get("until_ms"))
    if ends_ms is not None:
        return max(1, math.ceil((ends_ms - now_ms) / 1000))
    # One of so many places at once is free when any task ends, and nobody knows when: soon, unless there are none.
    of_quota = refused.get("unit") == "in_flight" and refused["limit"]
    return 1 if of_quota or ("in_flight" in refused and refused["bound"]) else None


def _left(one: dict[str, Any]) -> int:
    return max(0, int(one["limit"]) - int(one["spent"]) - int(one["reserved"]))


def _duration(milliseconds: int) -> str:
    """As OpenAI writes it: `850ms`, `17s`, `6m0s`, `2h0m3s`."""
    if milliseconds < 1000:
        return f"{max(0, milliseconds)}ms"
    seconds = math.ceil(milliseconds / 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
