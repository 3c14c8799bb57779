"""The prices that hold when a task is decided go with its permission."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.unit.policy.world import ALICE, World

ANOTHER = UUID("22222222-2222-4222-8222-222222222222")
ASKED: dict[str, Any] = {
    "max_cost": 0,
    "provider": "openai",
    "model": "gpt-4o-mini",
    "prompt": {"input": "x", "max_tokens": 10},
}


def set_price(world: World, tenant_id: UUID) -> None:
    scope = {"tenant_id": str(tenant_id), "provider": "openai", "model": "gpt-4o-mini"}
    world.order(type="price.set", scope=scope, reason="contract", rates={"input_mtok": "100", "output_mtok": "100"})


def test_a_tenants_price_is_reserved_by_and_recorded_for_that_tenant_only() -> None:
    world = World()
    published = world.allow(ALICE, **ASKED)
    set_price(world, ANOTHER)
    unchanged = world.allow(ALICE, **ASKED)
    assert (unchanged.prices, unchanged.reservation.amount) == (published.prices, published.reservation.amount)
    set_price(world, ALICE.tenant_id)
    mine = world.allow(ALICE, **ASKED)
    assert mine.prices is not None and mine.prices.source.startswith("control ")
    assert mine.reservation.amount > 100 * published.reservation.amount
