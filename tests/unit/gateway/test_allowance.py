"""What remains of the limits, as headers."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.allowance import headers_of, said_of
from tests.unit.policy.world import ALICE, CENT, START_MS, TENANT, TaskAllowed, TaskBlocked, World

T = {"tenant_id": str(TENANT)}


def headers(world: World, **fields: Any) -> dict[str, str]:
    """Of the next decision, as it stands in the log."""
    verdict = world.submit(**fields)
    assert isinstance(verdict, TaskAllowed | TaskBlocked)
    return headers_of(said_of(verdict.model_dump(mode="json", exclude_none=True)), world.now_ms)


def test_the_least_that_remains_is_told() -> None:
    world = World()
    world.order(type="quota.set", scope=T, window="day", calls=9, actor="ann")
    world.order(type="quota.set", scope={**T, "task_type": "route"}, window="hour", calls=3, actor="ann")
    world.order(type="quota.set", scope=T, window="minute", calls=1, mode="shadow", actor="ann")
    world.order(type="quota.set", scope=T, window="minute", tokens=1000, actor="ann")
    found = headers(world, max_cost=2 * CENT, prompt={"text": "hello"})
    assert found.pop("x-ratelimit-remaining-tokens") > "8"
    assert found == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "53m20s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-reset-tokens": "20s",
        "x-skeldir-remaining-cents": "498",
    }


def test_without_quotas_only_money_is_told() -> None:
    assert headers(World(), max_cost=CENT // 4) == {"x-skeldir-remaining-cents": "499.75"}


@pytest.mark.parametrize(
    ("order", "later_ms"),
    [
        ({"type": "quota.set", "window": "minute", "calls": 0}, 20_000),
        ({"type": "limits.set", "hourly_cents": 0}, 3_200_000),
        ({"type": "limits.set", "monthly_cents": 0}, None),
        ({"type": "quota.set", "max_in_flight": 0}, None),
        ({"type": "limits.set", "max_in_flight": 0}, None),
        ({"type": "shutoff.engaged", "reason": "too loud", "minutes": 5}, 300_000),
    ],
)
def test_a_refusal_says_when_to_come_back(order: dict[str, Any], later_ms: int | None) -> None:
    world = World()
    world.order(scope={**T, "user_id": str(ALICE.user_id)}, actor="ann", **order)
    found = headers(world)
    if later_ms is None:
        assert ("retry-after" in found) == ("monthly_cents" in order)
    else:
        assert found["retry-after"] == str(later_ms // 1000)
    assert found.get("x-ratelimit-remaining-requests") == ("0" if "calls" in order else None)


@pytest.mark.parametrize("kind", ["limits.set", "quota.set"])
def test_a_place_among_so_many_at_once_may_be_free_soon(kind: str) -> None:
    world = World()
    world.order(type=kind, scope={**T, "user_id": str(ALICE.user_id)}, max_in_flight=1, actor="ann")
    assert "retry-after" not in headers(world)
    assert headers(world)["retry-after"] == "1"


def test_what_is_unknown_says_nothing() -> None:
    assert headers_of({}, START_MS) == {}
    assert headers_of({"balances": None, "quotas": None, "explanation": None}, START_MS) == {}


def test_who_was_moved_to_a_cheaper_model_is_told() -> None:
    world = World()
    world.order(type="limits.set", scope=T, monthly_cents=2, actor="ann")
    rule = {"model": "large", "to": "stub:small", "percent": 50, "actor": "ann"}
    world.order(type="downgrade.set", scope=T, **rule)
    assert "x-skeldir-model" not in headers(world, model="large")
    found = headers(world, model="large")
    assert (found["x-skeldir-model"], found["x-skeldir-requested-model"]) == ("stub:small", "stub:large")
