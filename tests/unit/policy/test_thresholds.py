"""A warning at 50, 80 and 95 percent of each limit: once a window, whatever is reserved meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.events.decisions import LimitNeared
from tests.unit.policy.world import ALICE, BOB, CENT, CONFIG, TENANT, World

Warned = list[tuple[str, str, int]]


def world_of(cents: int) -> World:
    return World(config=replace(CONFIG, monthly_cap=cents * CENT, hourly_threshold=10_000 * CENT))


def spend(world: World, cents: int, owner: object = ALICE) -> Warned:
    said = world.succeed(world.allow(owner, max_cost=cents * CENT), cost=cents * CENT)  # type: ignore[arg-type]
    return [(one.scope, one.window, one.percent) for one in said if isinstance(one, LimitNeared)]


def test_each_threshold_is_told_once() -> None:
    world = world_of(100)
    assert spend(world, 49) == []
    assert spend(world, 1) == [("user", "month", 50)]
    assert spend(world, 29) == []
    assert spend(world, 16) == [("user", "month", 80), ("user", "month", 95)]
    assert spend(world, 5) == []


def test_what_is_only_reserved_warns_nobody() -> None:
    world = world_of(100)
    allowed = world.allow(max_cost=90 * CENT)
    assert not [one for one in world.log if isinstance(one.data, LimitNeared)]
    assert not [one for one in world.fail(allowed, "none") if isinstance(one, LimitNeared)]


def test_a_tenants_limit_warns_for_all_its_users_together() -> None:
    world = World()
    world.order(type="limits.set", scope={"tenant_id": str(TENANT)}, hourly_cents=10, actor="ann")
    assert spend(world, 4, ALICE) == []
    assert spend(world, 4, BOB) == [("tenant", "hour", 50), ("tenant", "hour", 80)]


@pytest.mark.parametrize("cents", [0, None])
def test_without_a_limit_there_is_nothing_to_near(cents: int | None) -> None:
    world = World(config=replace(CONFIG, monthly_cap=0 if cents == 0 else 10**15))
    assert world.succeed(world.allow(max_cost=0, prompt={"simulated_cost_cents": 0}), cost=0)
    assert not [one for one in world.log if isinstance(one.data, LimitNeared)]
