"""Why a task was refused, in a sentence and in numbers that a person can read."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from services.ledger.why import as_caused, verdict
from shared.events.decisions import BlockReason

CENT = 1_000_000_000


def blocked(reason: str, rule: str, seen: dict[str, Any]) -> dict[str, Any]:
    data = {"reason": reason, "rule": rule, "explanation": seen, "breaker_state": "closed", "control_position": "7-0"}
    end = {"type": "task.blocked", "time": 1, "id": 2, "data": data}
    found = verdict([{"type": "task.submitted", "data": {}}, end])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("reason", "rule", "seen", "sentence"),
    [
        ("provider_kill_switch", "kill_switch", {"actor": "ann", "reason": "loop"}, "engaged by ann: loop"),
        ("provider_kill_switch", "kill_switch", {"asked_by": "the task's own prompt"}, "own prompt"),
        ("hourly_threshold_exceeded", "hourly_limit", {"spent": 5 * CENT, "threshold": 5 * CENT}, "5 of 5 cents"),
        (
            "monthly_cap_exceeded",
            "monthly_cap",
            {"scope": "tenant", "spent": CENT // 2, "reserved": CENT, "cap": 2 * CENT, "wanted": CENT},
            "The tenant had spent 0.5 of 2 cents in this month, and 1 were reserved; up to 1 more did not fit.",
        ),
        ("max_in_flight_exceeded", "in_flight", {"scope": "user", "in_flight": 3, "bound": 3}, "3 tasks under way"),
        ("max_tool_calls_exceeded", "tool_calls", {"tool_calls": 4, "bound": 3}, "held 4 tool calls"),
        ("breaker_open", "breaker", {"failures": 3}, "after 3 failures in a row"),
        ("lunch", "manual_shutoff", {"actor": "ann", "until_ms": 5}, "shutoff of this user was engaged by ann"),
        ("unpriced", "price_bound", {"problem": "no price is known"}, "No price is known."),
        (
            "quota_exceeded",
            "quota",
            {"unit": "calls", "window": "minute", "spent": 1, "reserved": 0, "limit": 1, "wanted": 1},
            "A quota of 1 call in this minute had 1 used and 0 reserved; 1 more did not fit.",
        ),
        (
            "quota_exceeded",
            "quota",
            {"unit": "tokens", "window": "minute", "spent": 90, "reserved": 5, "limit": 100, "wanted": 20},
            "A quota of 100 tokens in this minute had 90 used and 5 reserved; 20 more did not fit.",
        ),
        (
            "quota_exceeded",
            "quota",
            {"unit": "money", "window": "day", "spent": CENT, "reserved": 0, "limit": 2 * CENT, "wanted": 2 * CENT},
            "A quota of 2 cents in this day had 1 used and 0 reserved; 2 more did not fit.",
        ),
    ],
)
def test_a_refusal_in_one_sentence(reason: str, rule: str, seen: dict[str, Any], sentence: str) -> None:
    assert sentence in blocked(reason, rule, seen)["sentence"]


@pytest.mark.parametrize("reason", list(BlockReason))
def test_every_reason_has_a_sentence(reason: BlockReason) -> None:
    assert blocked(reason, "executor", {})["sentence"].endswith((".", "given"))


def test_amounts_are_cents_and_counts_stay_counts() -> None:
    assert blocked("monthly_cap_exceeded", "monthly_cap", {"spent": CENT // 4})["saw"] == {
        "spent_cents": Decimal("0.25")
    }
    assert blocked("quota_exceeded", "quota", {"unit": "calls", "spent": 7})["saw"] == {"unit": "calls", "spent": 7}


def test_the_last_decision_counts() -> None:
    assert verdict([{"type": "task.submitted", "data": {}}]) is None


def test_a_task_that_was_moved_to_a_cheaper_model_says_so_first() -> None:
    balance = {"scope": "user", "window": "month", "window_start": "2026-11", "spent": 80 * CENT, "reserved": CENT}
    task = {"provider": "stub", "model": "small", "requested_model": "stub:large"}
    moved = {"type": "task.downgraded", "data": {"task": task, "balance": {**balance, "cap": 100 * CENT}}}
    end = {"reason": "lunch", "rule": "manual_shutoff", "explanation": {"until_ms": 5}}
    said = [
        verdict([moved, {"type": "task.blocked", "time": 1, "id": 2, "data": {**end, "task": one}}])
        for one in (task, {**task, "model": "large"})
    ]
    first = "It was moved from stub:large to stub:small: the user had used 81 of 100 cents in this month. A manual"
    assert said[0] is not None and said[0]["sentence"].startswith(first)
    assert said[1] is not None and said[1]["sentence"].startswith("A manual"), "decided again, as it was asked"


def test_an_alternative_that_took_the_place_of_a_model_says_so() -> None:
    over = {"provider": "openai", "model": "gpt-4o", "reason": "provider_breaker_open"}
    task = {"provider": "stub", "model": "small", "requested_model": "openai:gpt-4o"}
    data = {"task": task, "passed_over": over, "reservation": {"amount": CENT}, "control_position": "7-0"}
    said = verdict([{"type": "task.allowed", "time": 1, "id": 2, "data": {**data, "breaker_state": "closed"}}])
    first = "stub:small took the place of openai:gpt-4o (provider breaker open). Every rule"
    assert said is not None and said["sentence"].startswith(first)


def test_no_event_stands_before_what_caused_it() -> None:
    def event(name: str, cause: str | None) -> dict[str, Any]:
        return {"id": name, "causation_id": cause}

    submitted, allowed, attempt = event("submitted", None), event("allowed", "submitted"), event("attempt", "allowed")
    succeeded, settled = event("succeeded", "allowed"), event("settled", "succeeded")
    right = [submitted, allowed, attempt, succeeded, settled]
    assert as_caused(right) == right
    assert as_caused([submitted, attempt, succeeded, allowed, settled]) == right, "the attempt's clock was behind"
    assert as_caused([settled, succeeded]) == [succeeded, settled], "a page whose causes are on the one before"
    assert len(as_caused([event("a", "b"), event("b", "a")])) == 2, "and none is left out"
