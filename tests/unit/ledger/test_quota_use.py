"""What quotas have counted: the newest reading of the newest window, whatever the order of the events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations
from typing import Any

from services.ledger.projections.quota_use import QUOTA_USE, project
from services.ledger.projections.rows import Row, fold
from services.ledger.quotas import Use
from shared.events.envelope import Envelope
from shared.events.quotas import QuotaBalance
from shared.quotas import Quota
from tests.unit.policy.world import CENT, CONFIG, START_MS, TENANT, ReservationEnded, TaskAllowed, World

HOUR = 3_600_000


def world_with(**quota: Any) -> World:
    world = World(config=replace(CONFIG, failure_threshold=1000))
    world.order(type="quota.set", scope={"tenant_id": str(TENANT)}, actor="ann", **quota)
    return world


def quota_of(world: World) -> Quota:
    (found,) = world.control.quotas[TENANT].by_id.values()
    return found


def rows_of(events: list[Envelope]) -> list[Row]:
    return list(fold(patch for event in events for patch in project(event)).get(QUOTA_USE.name, {}).values())


def test_the_last_word_counts_in_whatever_order_it_comes() -> None:
    world = world_with(window="hour", calls=10)
    first, second = world.allow(), world.allow()
    world.succeed(first)
    world.succeed(second)
    said = [event for event in world.log if isinstance(event.data, TaskAllowed | ReservationEnded)]
    assert len(said) == 4
    for order in permutations(said):
        (row,) = rows_of(list(order))
        assert (row["spent"], row["reserved"]) == (2, 0)
        assert Use.of(quota_of(world), {"spent_cents": None, **row}, world.now_ms).used_pct == 20.0


def test_a_late_end_in_an_older_window_says_nothing_about_the_newest() -> None:
    world = world_with(window="hour", cents=5)
    late = world.allow(max_cost=2 * CENT)
    world.now_ms += HOUR
    world.allow(max_cost=3 * CENT)
    world.succeed(late, cost=CENT)
    (row,) = rows_of(world.log)
    assert (row["spent_cents"], row["reserved_cents"]) == (0, 3 * CENT)
    stored = {**row, "spent_cents": Decimal(0), "reserved_cents": Decimal(3)}  # as the table has them, in cents
    now = Use.of(quota_of(world), stored, world.now_ms)
    hour = datetime.fromtimestamp(START_MS / 1000, UTC).replace(minute=0, second=0, microsecond=0)
    assert (now.spent, now.reserved, now.used_pct) == (0, 3, 60.0)
    assert now.resets_at is not None and (now.resets_at - hour).total_seconds() == 2 * 3600
    later = Use.of(quota_of(world), stored, world.now_ms + HOUR)
    assert (later.spent, later.reserved, later.used_pct) == (0, 0, 0.0), "the next window begins at nothing"


def test_of_what_was_recorded_without_a_version_nothing_is_known() -> None:
    world = world_with(max_in_flight=4)
    allowed = world.allow()
    old = [one.model_copy(update={"version": 0}) for one in allowed.quotas if isinstance(one, QuotaBalance)]
    before = world.log[-1].model_copy(update={"data": allowed.model_copy(update={"quotas": old})})
    assert rows_of([before]) == []
    (row,) = rows_of(world.log)
    used = Use.of(quota_of(world), row, world.now_ms)
    assert (row["window_start"], used.used_pct, used.resets_at) == (None, 25.0, None)
    assert Use.of(quota_of(world), None, world.now_ms).used_pct is None
