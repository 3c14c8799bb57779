"""Near the end of a budget calls go to a cheaper model; everything else is then asked about that one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.control_state import ControlState, evolve
from shared.events.control import InvalidControl, parse_control
from shared.events.decisions import TaskDowngraded
from shared.events.outcomes import AttemptResolved
from shared.events.tasks import cache_key_of
from tests.unit.policy.world import (
    ALICE,
    BOB,
    CENT,
    TENANT,
    ReservationEnded,
    TaskAllowed,
    TaskBlocked,
    World,
    only,
    reason,
)

T = {"tenant_id": str(TENANT)}
RULE: dict[str, Any] = {"scope": T, "model": "stub:large*", "to": "stub:small", "percent": 80, "actor": "ann"}
LARGE: dict[str, Any] = {"model": "large-2"}


def world_with(*rules: dict[str, Any], spent: int = 0) -> World:
    """A user's month has 100 cents; so many of them are spent."""
    world = World()
    world.order(type="limits.set", scope={**T, "user_id": str(ALICE.user_id)}, monthly_cents=100, actor="ann")
    for rule in rules or ({},):
        world.order(type="downgrade.set", **{**RULE, **rule})
    if spent:
        world.succeed(world.allow(model="other", max_cost=spent * CENT), spent * CENT)
    return world


def asked(world: World, **fields: Any) -> str:
    allowed = world.allow(**{**LARGE, "max_cost": 0, **fields})
    return f"{allowed.task.provider}:{allowed.task.model}"


def events(world: World) -> list[TaskDowngraded]:
    return [one.data for one in world.log if isinstance(one.data, TaskDowngraded)]


@pytest.mark.parametrize(("spent", "model"), [(0, "stub:large-2"), (79, "stub:large-2"), (80, "stub:small")])
def test_from_the_percentage_on_calls_go_to_the_cheaper_model(spent: int, model: str) -> None:
    assert asked(world_with(spent=spent)) == model


def test_what_is_reserved_counts_as_used() -> None:
    world = world_with()
    world.allow(model="other", max_cost=80 * CENT)
    assert asked(world) == "stub:small"


def test_a_tenants_own_cap_counts_too_and_the_hour_where_the_rule_says_so() -> None:
    world = world_with({"window": "hour"}, spent=90)
    assert asked(world) == "stub:large-2"
    world.order(type="limits.set", scope=T, hourly_cents=100, actor="ann")
    assert asked(world) == asked(world, owner=BOB) == "stub:small"
    moved = events(world)[-1].balance
    assert (moved.scope, moved.window, moved.spent, moved.cap) == ("tenant", "hour", 90 * CENT, 100 * CENT)


def test_the_events_say_what_was_asked_for_and_why_it_moved() -> None:
    world = world_with(spent=90)
    task = world.task(**LARGE, prompt={"text": "hello"})
    downgraded, allowed = (one for one in world.deliver(task) if isinstance(one, TaskDowngraded | TaskAllowed))
    assert isinstance(downgraded, TaskDowngraded) and isinstance(allowed, TaskAllowed)
    assert (allowed.task.model, allowed.task.requested_model) == ("small", "stub:large-2")
    assert downgraded.task.requested_model == "stub:large-2" and downgraded.to == "stub:small"
    assert (downgraded.percent, downgraded.balance.spent, downgraded.shadow) == (80, 90 * CENT, False)
    assert downgraded.order in world.control.position
    ended = only(world.succeed(allowed), ReservationEnded)
    assert (ended.task.model, ended.task.requested_model) == ("small", "stub:large-2")


def test_all_other_rules_are_asked_about_the_cheaper_model() -> None:
    world = world_with({"model": "openai:gpt-4o", "to": "openai:gpt-4o-mini"}, spent=90)
    real: dict[str, Any] = {"provider": "openai", "model": "gpt-4o", "max_cost": 0, "prompt": {"input": "hello"}}
    moved, direct = world.allow(**real), world.allow(**{**real, "model": "gpt-4o-mini"})
    assert moved.reservation.amount == direct.reservation.amount and moved.prices == direct.prices
    stop = {"type": "kill_switch.engaged", "reason": "drill", "actor": "ann"}
    world.order(**stop, scope={"model": "openai:gpt-4o"})
    assert world.allow(**real), "the model that was asked for is not called"
    world.order(type="quota.set", scope={**T, "model": "gpt-4o-mini"}, window="hour", calls=0, actor="ann")
    assert reason(world.submit(**real)) == "quota_exceeded"
    world.order(**stop, scope={"model": "openai:gpt-4o-mini"})
    refused = world.submit(**real)
    assert isinstance(refused, TaskBlocked) and reason(refused) == "provider_kill_switch"
    assert (refused.task.model, refused.task.requested_model) == ("gpt-4o-mini", "openai:gpt-4o")


@pytest.mark.parametrize(
    ("rule", "fields", "moves"),
    [
        ({"model": "large*"}, {}, True),
        ({"model": "*"}, {}, True),
        ({"model": "openai:large*"}, {}, False),
        ({"model": "LARGE*"}, {}, False),
        ({"scope": {**T, "task_type": "explanation"}}, {}, False),
        ({"scope": {**T, "user_id": str(ALICE.user_id), "task_type": "route"}}, {}, True),
        ({"scope": {**T, "user_id": str(BOB.user_id)}}, {}, False),
        ({"scope": {"tenant_id": "22222222-2222-4222-8222-222222222222"}}, {}, False),
        ({"mode": "shadow"}, {}, False),
        ({}, {"operation": "embeddings"}, False),
        ({}, {"operation": "responses"}, True),
        ({"to": "openai:gpt-4o-mini"}, {"operation": "responses"}, False),
    ],
)
def test_only_calls_in_its_scope_that_the_other_model_can_answer_are_moved(
    rule: dict[str, Any], fields: dict[str, Any], moves: bool
) -> None:
    assert asked(world_with(rule, spent=90), **fields) == ("stub:small" if moves else "stub:large-2")


def test_the_highest_percentage_that_is_reached_holds_and_shadow_changes_nothing() -> None:
    rules: tuple[dict[str, Any], ...] = (
        {"to": "stub:tiny", "percent": 95, "model": "*"},
        {},
        {"percent": 99, "mode": "shadow", "model": "large*"},
    )
    world = world_with(*rules, spent=90)
    assert asked(world) == "stub:small"
    world.succeed(world.allow(model="tiny", max_cost=9 * CENT), 9 * CENT)
    assert asked(world) == "stub:tiny"


def test_shadow_mode_only_records_and_a_rule_ends() -> None:
    world = world_with({"mode": "shadow"}, spent=90)
    assert asked(world) == "stub:large-2"
    (said,) = events(world)
    assert said.shadow and said.to == "stub:small" and said.task.requested_model is None
    world.order(type="downgrade.unset", scope=T, model="stub:large*", actor="ann")
    assert asked(world) == "stub:large-2" and len(events(world)) == 1 and not world.control.downgrades


def test_the_cached_answer_is_another_models() -> None:
    prompt = {"text": "hello", "cache_enabled": True}
    world = world_with(spent=90)
    moved = world.allow(**LARGE, prompt=prompt, cache_key="of the large model")
    direct = cache_key_of(TENANT, ALICE.user_id, moved.task.task_type, "stub:small", prompt)
    assert moved.task.cache_key == direct


def test_an_expired_decision_is_made_again_for_what_was_asked() -> None:
    world = world_with(spent=90)
    moved = world.allow(**LARGE, max_cost=0, cache_key="k", prompt={"cache_enabled": True})
    world.order(type="limits.set", scope={**T, "user_id": str(ALICE.user_id)}, monthly_cents=1000, actor="ann")
    again = only(world.expire(moved), TaskAllowed)
    assert (again.task.provider, again.task.model) == ("stub", "large-2")
    # It says so still: the ledger's row has to go back to it.
    assert again.task.requested_model == "stub:large-2"


def test_a_held_reservation_is_reconciled_as_the_model_that_was_called() -> None:
    world = world_with(spent=90)
    moved = world.allow(**LARGE)
    world.fail(moved, "uncertain")
    said = only(world.reconcile(moved, "0.5"), AttemptResolved)
    assert (said.task.model, said.task.requested_model) == ("small", "stub:large-2")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"scope": {}}, "give tenant_id"),
        ({"scope": {**T, "model": "gpt-4o"}}, "names no model"),
        ({"to": "gpt-4o-mini"}, "to"),
        ({"percent": 0}, "percent"),
        ({"percent": 101}, "percent"),
        ({"window": "day"}, "window"),
    ],
)
def test_an_order_that_cannot_be_applied_is_refused_in_one_line(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidControl, match=problem):
        parse_control(orjson.dumps({"type": "downgrade.set", **RULE, **given}))


def test_an_order_of_another_tenant_changes_nothing_here() -> None:
    state = ControlState()
    for number, tenant in enumerate((T, {"tenant_id": str(ALICE.user_id)}), start=1):
        order = {"type": "downgrade.set", **RULE, "scope": tenant}
        state = evolve(state, f"1-{number}", parse_control(orjson.dumps(order)))
    assert [len(rules) for rules in state.downgrades.values()] == [1, 1]
