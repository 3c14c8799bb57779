"""Other models may answer in place of one that cannot; what is reserved holds for whichever is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.events.decisions import BlockReason
from shared.routing import alternatives_to
from tests.unit.policy.world import CENT, CONFIG, TENANT, TaskAllowed, TaskBlocked, World, reason

DEAR, CHEAP, OTHER = "openai:gpt-4o", "openai:gpt-4o-mini", "anthropic:claude-haiku-4-5"
REAL: dict[str, Any] = {"provider": "openai", "model": "gpt-4o-mini", "max_cost": 0, "prompt": {"input": "hello"}}


def world_with(*others: str, pattern: str = CHEAP) -> World:
    return World(config=replace(CONFIG, fallbacks={pattern: list(others)}))


def names(allowed: TaskAllowed) -> list[str]:
    return [f"{one.provider}:{one.model}" for one in allowed.alternatives]


def alone(named: str) -> TaskAllowed:
    provider, _, model = named.partition(":")
    return World().allow(**{**REAL, "provider": provider, "model": model})


def breaker(world: World, named: str, state: str = "open") -> None:
    provider, _, model = named.partition(":")
    about = {"provider": provider, "model": model, "state": state, "previous": "closed", "version": 1, "probes": 1}
    until = {"until": "2099-01-01T00:00:00Z"} if state == "open" else {}
    world.order(type="provider_breaker.changed", **about, **until, reason="it fails", actor="policy")


def test_each_alternative_has_its_own_price_and_the_most_of_all_is_reserved() -> None:
    allowed = world_with(DEAR, OTHER).allow(**REAL)
    assert names(allowed) == [DEAR, OTHER]
    assert allowed.task.requested_model is None and allowed.prices == alone(CHEAP).prices
    for one, other in zip(allowed.alternatives, (alone(DEAR), alone(OTHER)), strict=True):
        assert (one.amount, one.prices) == (other.reservation.amount, other.prices)
        assert one.max_output_tokens == other.max_output_tokens
    assert allowed.reservation.amount == alone(DEAR).reservation.amount > alone(CHEAP).reservation.amount


def test_without_a_fallback_nothing_is_different() -> None:
    allowed = world_with(DEAR, pattern="gpt-4o").allow(**REAL)
    assert allowed.alternatives == [] and allowed.reservation.amount == alone(CHEAP).reservation.amount


@pytest.mark.parametrize("state", ["open", "half_open"])
def test_one_with_a_breaker_that_is_not_closed_is_left_out(state: str) -> None:
    world = world_with(DEAR, OTHER)
    breaker(world, DEAR, state)
    assert names(world.allow(**REAL)) == [OTHER]


def test_one_that_is_stopped_or_has_no_price_or_is_unknown_is_left_out() -> None:
    world = world_with(DEAR, "openai:nobody-knows", "nowhere:model", OTHER)
    world.order(type="kill_switch.engaged", scope={"model": DEAR}, reason="drill", actor="ann")
    assert names(world.allow(**REAL)) == [OTHER]


def test_a_stop_of_the_choice_itself_is_a_stop() -> None:
    world = world_with(OTHER)
    world.order(type="kill_switch.engaged", scope={"model": CHEAP}, reason="drill", actor="ann")
    assert reason(world.submit(**REAL)) == "provider_kill_switch"


@pytest.mark.parametrize(
    ("fields", "others"),
    [({"operation": "embeddings"}, []), ({"operation": "responses", "prompt": {"input": "hello"}}, [DEAR])],
)
def test_only_models_that_can_answer_the_same_are_alternatives(fields: dict[str, Any], others: list[str]) -> None:
    assert names(world_with(DEAR, OTHER).allow(**{**REAL, **fields})) == others


def test_with_an_open_breaker_the_next_one_is_the_choice() -> None:
    world = world_with(OTHER, DEAR)
    breaker(world, CHEAP)
    allowed = world.allow(**REAL)
    assert (allowed.task.provider, allowed.task.model) == ("anthropic", "claude-haiku-4-5")
    assert allowed.task.requested_model == CHEAP and names(allowed) == [DEAR] and not allowed.probe
    assert allowed.passed_over is not None and allowed.passed_over.reason == BlockReason.PROVIDER_BREAKER_OPEN
    assert allowed.prices == alone(OTHER).prices
    breaker(world, OTHER)
    breaker(world, DEAR)
    refused = world.submit(**REAL)
    assert isinstance(refused, TaskBlocked) and reason(refused) == "provider_breaker_open"
    assert refused.task.model == "gpt-4o-mini"


@pytest.mark.parametrize(("named", "why"), [("openai:nobody-knows", "unpriced"), ("nowhere:model", "unknown_provider")])
def test_without_a_price_the_next_one_is_the_choice(named: str, why: str) -> None:
    provider, _, model = named.partition(":")
    asked = {**REAL, "provider": provider, "model": model}
    allowed = world_with(CHEAP, pattern=named).allow(**asked)
    assert (allowed.task.model, allowed.task.requested_model) == ("gpt-4o-mini", named)
    assert allowed.passed_over is not None and allowed.passed_over.reason == why
    assert reason(world_with(named, pattern=named).submit(**asked)) == why


def test_what_costs_more_than_its_caller_will_pay_is_refused_all_the_same() -> None:
    asked = {**REAL, "max_cost": CENT // 50}
    assert World().allow(**asked), "the alternative would fit"
    assert reason(world_with(CHEAP, pattern=DEAR).submit(**{**asked, "model": "gpt-4o"})) == "max_cost_exceeded"


def test_one_with_quotas_of_its_own_is_left_out() -> None:
    scope = {"tenant_id": str(TENANT)}
    world = world_with(DEAR, OTHER)
    world.order(type="quota.set", scope={**scope, "model": "gpt-4o"}, window="hour", calls=5, actor="ann")
    world.order(type="quota.set", scope={**scope, "provider": "openai"}, window="hour", calls=5, actor="ann")
    allowed = world.allow(**REAL)
    assert names(allowed) == [OTHER] and len(allowed.quotas) == 1


def test_quotas_hold_what_the_dearest_and_longest_may_take() -> None:
    world = world_with(DEAR)
    for limit in ({"cents": 50}, {"tokens": 10**6}):
        world.order(type="quota.set", scope={"tenant_id": str(TENANT)}, window="hour", **limit, actor="ann")
    # The caller's bound leaves the cheaper model room for more output.
    allowed = world.allow(**{**REAL, "max_cost": CENT // 5, "prompt": {"input": "hello", "max_tokens": 5000}})
    money, tokens = sorted(allowed.quotas, key=lambda one: one.unit)
    (dear,) = allowed.alternatives
    assert allowed.max_output_tokens is not None and dear.max_output_tokens is not None
    assert allowed.max_output_tokens > dear.max_output_tokens
    assert money.amount == allowed.reservation.amount == max(dear.amount, allowed.reservation.amount)
    assert tokens.amount > allowed.max_output_tokens


def test_where_only_the_choice_fits_under_a_cap_it_has_no_alternatives() -> None:
    world = world_with(DEAR)
    cents = str(alone(CHEAP).reservation.amount / CENT)
    world.order(type="limits.set", scope={"tenant_id": str(TENANT)}, monthly_cents=cents, actor="ann")
    allowed = world.allow(**REAL)
    assert names(allowed) == [] and allowed.reservation.amount == alone(CHEAP).reservation.amount
    assert reason(world.submit(**REAL)) == "monthly_cap_exceeded"


def test_one_that_was_moved_and_is_decided_again_is_looked_at_as_it_was_asked_for() -> None:
    world = world_with(OTHER)
    breaker(world, CHEAP)
    moved = world.allow(**REAL)
    breaker(world, CHEAP, "closed")
    again = world.expire(moved)
    allowed = next(one for one in again if isinstance(one, TaskAllowed))
    assert (allowed.task.model, allowed.task.requested_model) == ("gpt-4o-mini", CHEAP)
    assert names(allowed) == [OTHER]


@pytest.mark.parametrize(
    ("fallbacks", "found"),
    [
        ({"gpt-*": ["a:b"]}, ["a:b"]),
        ({"openai:gpt-*": ["a:b", "a:b", CHEAP, "a:c"]}, ["a:b", "a:c"]),
        ({"other:*": ["a:b"], "*": ["a:c"], "gpt-4o-mini": ["a:d"]}, ["a:c"]),
        ({}, []),
    ],
)
def test_the_first_pattern_that_matches_counts(fallbacks: dict[str, list[str]], found: list[str]) -> None:
    assert alternatives_to("openai", "gpt-4o-mini", fallbacks) == found
