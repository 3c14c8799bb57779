"""Bounds of a single task, by its type: how long its call, how dear, how many tool calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from services.policy.rules.tool_calls import held
from shared.events.control import InvalidControl, parse_control
from shared.events.decisions import TaskBlocked
from tests.unit.policy.world import ALICE, CENT, CONFIG, TENANT, World, reason

ROUTE = {"task_type": "route"}
OURS = {**ROUTE, "tenant_id": str(TENANT)}
OTHERS = {**ROUTE, "tenant_id": "22222222-2222-4222-8222-222222222222"}
ASKED: dict[str, Any] = {"provider": "openai", "model": "gpt-4o", "max_cost": 0, "prompt": {"input": "hello"}}


def world_with(scope: dict[str, str] = OURS, **bounds: Any) -> World:
    world = World()
    order(world, scope, **bounds)
    return world


def order(world: World, scope: dict[str, str], **bounds: Any) -> None:
    world.order(type="bounds.set", scope=scope, actor="ann", **bounds)


def conversation(calls: int, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}] * calls, **more}


@pytest.mark.parametrize(("bound", "allowed"), [(200, 200), (10_000, 10_000), (60_000, 10_000)])
def test_of_the_time_the_smaller_of_setting_and_bound_holds(bound: int, allowed: int) -> None:
    assert world_with(timeout_ms=bound).allow().timeout_ms == allowed


def test_bounds_of_another_task_type_or_tenant_do_not_hold() -> None:
    world = world_with(OTHERS, timeout_ms=200)
    order(world, {**OURS, "task_type": "explanation"}, timeout_ms=300)
    assert world.allow().timeout_ms == 10_000


def test_a_tenants_own_bound_takes_the_place_of_everybodys_each_by_itself() -> None:
    world = world_with(OURS, timeout_ms=500)
    order(world, ROUTE, timeout_ms=200, max_tool_calls=1)
    assert world.allow().timeout_ms == 500
    assert reason(world.submit(prompt=conversation(2))) == "max_tool_calls_exceeded"


def test_what_is_not_given_stays_and_unset_ends_all() -> None:
    world = world_with(timeout_ms=200, max_tool_calls=1)
    order(world, OURS, max_tool_calls=5)
    assert world.allow(prompt=conversation(5)).timeout_ms == 200
    world.order(type="bounds.unset", scope=OURS, actor="ann")
    assert world.allow(prompt=conversation(6)).timeout_ms == 10_000


@pytest.mark.parametrize(("bound", "own"), [(1, 5), (5, 1), (1, 0)])
def test_of_the_cost_the_smaller_of_caller_and_bound_holds(bound: int, own: int) -> None:
    world = world_with(max_cost_cents=bound)
    allowed = world.allow(**{**ASKED, "max_cost": own * CENT, "prompt": {"input": "hello", "max_tokens": 100_000}})
    assert 0.9 * CENT < allowed.reservation.amount <= CENT
    assert 1 < (allowed.max_output_tokens or 0) < 100_000


def test_the_refusal_says_whose_bound_it_was() -> None:
    world = world_with(max_cost_cents="0.001")
    for own, whose in ((0, "task type"), (CENT, "task type"), (1, "max_cost_cents")):
        said = world.submit(**{**ASKED, "max_cost": own})
        assert isinstance(said, TaskBlocked) and reason(said) == "max_cost_exceeded"
        assert whose in said.explanation["problem"]


def test_where_the_output_cannot_be_limited_the_worst_case_fits_or_is_refused() -> None:
    world = world_with(max_cost_cents=3)
    assert reason(world.submit(max_cost=0, prompt={"simulated_cost_cents": 4})) == "max_cost_exceeded"
    assert world.allow(max_cost=9 * CENT, prompt={"simulated_cost_cents": 2}).reservation.amount == 3 * CENT
    assert world.allow(max_cost=0, prompt={"simulated_cost_cents": 2}).reservation.amount == 2 * CENT
    unlisted = {**ASKED, "model": "no-such-model"}
    for worst, verdict in ((4 * CENT, None), (2 * CENT, 2 * CENT)):
        world.config = replace(CONFIG, unpriced_worst_case=worst)
        if verdict is None:
            assert reason(world.submit(**unlisted)) == "max_cost_exceeded"
        else:
            assert world.allow(**unlisted).reservation.amount == verdict


def test_a_conversation_may_hold_as_many_tool_calls_as_the_bound_and_no_more() -> None:
    world = world_with(max_tool_calls=2)
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert world.allow(prompt=conversation(2, tools=tools))
    refused = world.submit(prompt=conversation(3))
    assert isinstance(refused, TaskBlocked) and refused.rule == "tool_calls"
    assert refused.explanation == {"task_type": "route", "tool_calls": 3, "bound": 2}
    assert reason(world.submit(prompt=conversation(3), cache_key="k")) == "max_tool_calls_exceeded"
    assert world.reserved(ALICE) == CENT, "only what was allowed"


def test_a_bound_of_none_refuses_offers_of_tools() -> None:
    world = world_with(max_tool_calls=0)
    asked: dict[str, Any]
    for asked in ({"tools": [{}]}, {"functions": [{}]}, conversation(1)):
        assert reason(world.submit(prompt=asked)) == "max_tool_calls_exceeded"
    assert world.allow(prompt={"tools": [], "messages": [{"role": "user", "content": "hi"}]})


@pytest.mark.parametrize(
    ("prompt", "calls"),
    [
        ({}, 0),
        ({"messages": "none"}, 0),
        ({"messages": [{"role": "assistant", "tool_calls": [{}, {}]}, {"role": "tool"}, {"role": "tool"}]}, 2),
        ({"messages": [{"role": "tool"}] * 3}, 3),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}, {"role": "function"}]}, 1),
        ({"messages": [{"tool_calls": "many"}, {"role": ["tool"]}, 7]}, 0),
        ({"input": [{"type": "function_call"}, {"type": "function_call_output"}, {"type": "custom_tool_call"}]}, 2),
        ({"input": [{"type": "function_call_output"}] * 2}, 2),
    ],
)
def test_tool_calls_are_counted_in_every_form(prompt: dict[str, Any], calls: int) -> None:
    assert held(prompt) == calls


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"scope": OURS}, "give at least one"),
        ({"scope": {"tenant_id": str(TENANT)}, "timeout_ms": 1}, "give task_type"),
        ({"scope": {**ROUTE, "model": "gpt-4o"}, "timeout_ms": 1}, "do not apply"),
        ({"scope": OURS, "timeout_ms": 0}, "timeout_ms"),
        ({"scope": OURS, "max_cost_cents": 0}, "above 0"),
        ({"scope": OURS, "max_cost_cents": "a lot"}, "max_cost_cents|decimal|cents"),
        ({"scope": OURS, "max_tool_calls": -1}, "max_tool_calls"),
    ],
)
def test_an_order_that_cannot_be_applied_is_refused_in_one_line(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidControl, match=problem):
        parse_control(orjson.dumps({"type": "bounds.set", "actor": "ann", **given}))
