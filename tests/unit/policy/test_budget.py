"""Reserve, then settle: caps hold at every moment, and a reservation ends once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_struct

from services.policy import budget, meters
from services.policy.rules.idempotency import TaskRecord
from services.policy.state import Account, Hold, Take
from shared.quotas import NO_QUOTAS
from tests.unit.policy.world import (
    ALICE,
    BOB,
    CENT,
    CONFIG,
    START_MS,
    TENANT,
    ReservationEnded,
    TaskAllowed,
    World,
    only,
    reason,
)

HOUR = 3_600_000


def test_a_burst_cannot_pass_the_monthly_cap() -> None:
    world = World(config=replace(CONFIG, monthly_cap=50 * CENT, failure_threshold=1000))
    verdicts = [world.submit() for _ in range(200)]
    assert sum(isinstance(one, TaskAllowed) for one in verdicts) == 50
    assert {reason(one) for one in verdicts[50:]} == {"monthly_cap_exceeded"}


def test_a_burst_cannot_pass_the_hourly_threshold() -> None:
    """The replaced system counted only what was settled: 20 cents went out under a threshold of 3."""
    world = World(config=replace(CONFIG, hourly_threshold=3 * CENT, failure_threshold=1000))
    verdicts = [world.submit() for _ in range(20)]
    assert sum(isinstance(one, TaskAllowed) for one in verdicts) == 3
    assert {reason(one) for one in verdicts[3:]} == {"hourly_threshold_exceeded"}


def test_settling_gives_back_what_was_not_spent() -> None:
    world = World(config=replace(CONFIG, monthly_cap=10 * CENT))
    allowed = world.allow(max_cost=10 * CENT)
    assert reason(world.submit()) == "monthly_cap_exceeded"
    ended = only(world.succeed(allowed, cost=4 * CENT), ReservationEnded)
    assert (ended.how, ended.settled, ended.overrun) == ("settled", 4 * CENT, 0)
    assert (world.spent(), world.reserved()) == (4 * CENT, 0)
    assert world.allow(max_cost=6 * CENT)


def test_a_true_cost_above_the_reservation_counts_in_full() -> None:
    """The replaced system clamped the recorded cost to the reservation."""
    world = World(config=replace(CONFIG, monthly_cap=10 * CENT))
    ended = only(world.succeed(world.allow(max_cost=CENT), cost=9 * CENT), ReservationEnded)
    assert (ended.settled, ended.overrun) == (9 * CENT, 8 * CENT)
    assert reason(world.submit(max_cost=2 * CENT)) == "monthly_cap_exceeded"


def test_a_reservation_ends_once() -> None:
    world = World()
    allowed = world.allow()
    assert world.succeed(allowed, cost=CENT)
    assert world.succeed(allowed, cost=CENT) == []
    assert world.spent() == CENT


def test_an_uncertain_spend_stays_reserved_until_it_is_resolved() -> None:
    world = World()
    allowed = world.allow(max_cost=5 * CENT)
    held = only(world.fail(allowed, "uncertain"), ReservationEnded)
    assert (held.how, held.settled) == ("held", 5 * CENT)
    assert (world.reserved(), world.account().in_flight) == (5 * CENT, 0)
    settled = only(world.resolve(allowed, cost=3 * CENT), ReservationEnded)
    assert (settled.how, settled.settled) == ("settled", 3 * CENT)
    assert (world.spent(), world.reserved(), world.account().in_flight) == (3 * CENT, 0, 0)


def test_a_cached_answer_releases() -> None:
    world = World()
    ended = only(world.succeed(world.allow(), cached=True), ReservationEnded)
    assert (ended.how, ended.settled, world.spent(), world.reserved()) == ("released", 0, 0, 0)


def test_spending_the_threshold_shuts_off_until_the_hour_ends() -> None:
    world = World(config=replace(CONFIG, hourly_threshold=3 * CENT))
    said = world.succeed(world.allow(max_cost=3 * CENT), cost=3 * CENT)
    assert "shutoff.tripped" in [one.event_type for one in said]
    assert reason(world.submit(max_cost=0)) == "hourly_threshold_exceeded"
    world.now_ms = (START_MS // HOUR + 1) * HOUR
    assert isinstance(world.submit(), TaskAllowed)


def test_a_reservation_settles_in_the_hour_it_was_made_in() -> None:
    world = World(config=replace(CONFIG, hourly_threshold=10 * CENT))
    early = world.allow(max_cost=10 * CENT)
    world.now_ms = (START_MS // HOUR + 1) * HOUR
    late = world.allow(max_cost=10 * CENT)
    ended = only(world.succeed(early, cost=10 * CENT), ReservationEnded)
    assert ended.balances[0].window_start == early.reservation.hour != late.reservation.hour
    assert (ended.balances[0].spent, ended.balances[0].reserved) == (10 * CENT, 0)
    assert world.account().hours[late.reservation.hour].spent == 0


def test_a_window_is_remembered_while_anything_in_it_is_open() -> None:
    """Even a reservation of nothing may cost something when it settles."""
    world = World()
    free = world.allow(max_cost=0)
    world.succeed(world.allow(), cost=CENT)
    world.now_ms += HOUR
    world.succeed(world.allow(), cost=CENT)
    ended = only(world.succeed(free, cost=2 * CENT), ReservationEnded)
    assert ended.balances[0].spent == 3 * CENT


def test_a_clock_that_goes_back_opens_no_window_again() -> None:
    world = World(config=replace(CONFIG, hourly_threshold=CENT))
    world.now_ms += HOUR
    world.succeed(world.allow(), cost=CENT)
    world.now_ms -= HOUR
    assert reason(world.submit()) == "hourly_threshold_exceeded"


def test_none_as_max_cost_reserves_the_worst_case() -> None:
    """The replaced system let 6,000 cents through under its default of 0."""
    world = World(config=replace(CONFIG, monthly_cap=10 * CENT))
    assert world.allow(max_cost=0, prompt={"simulated_cost_cents": 6}).reservation.amount == 6 * CENT
    assert reason(world.submit(max_cost=0, prompt={"simulated_cost_cents": 6})) == "monthly_cap_exceeded"


def test_what_cannot_be_bounded_is_refused() -> None:
    assert reason(World().submit(provider="openai", model="no-such-model-4711", max_cost=0)) == "unpriced"


def test_a_tenants_limit_bounds_all_its_users_together() -> None:
    world = World()
    world.order(type="limits.set", scope={"tenant_id": str(TENANT)}, monthly_cents=10, actor="ann")
    world.allow(ALICE, max_cost=6 * CENT)
    assert reason(world.submit(BOB, max_cost=6 * CENT)) == "monthly_cap_exceeded"
    assert isinstance(world.submit(BOB, max_cost=4 * CENT), TaskAllowed)


def test_a_tenants_limit_takes_the_place_of_the_default_for_each_user() -> None:
    world = World()
    world.order(type="limits.set", scope={"tenant_id": str(TENANT)}, monthly_cents=9000, hourly_cents=9000, actor="ann")
    assert isinstance(world.submit(max_cost=8000 * CENT), TaskAllowed)


def test_a_users_own_limit_bounds_that_user() -> None:
    world = World()
    scope = {"tenant_id": str(TENANT), "user_id": str(ALICE.user_id)}
    world.order(type="limits.set", scope=scope, hourly_cents="0.5", actor="ann")
    assert reason(world.submit(ALICE)) == "hourly_threshold_exceeded"
    assert isinstance(world.submit(ALICE, max_cost=CENT // 2), TaskAllowed)
    assert isinstance(world.submit(BOB), TaskAllowed)


def test_in_flight_is_bounded_and_freed() -> None:
    world = World(config=replace(CONFIG, failure_threshold=100))
    world.order(type="limits.set", scope={"tenant_id": str(TENANT)}, max_in_flight=2, actor="ann")
    first = world.allow(ALICE)
    world.allow(BOB)
    assert reason(world.submit(ALICE)) == "max_in_flight_exceeded"
    world.succeed(first)
    assert isinstance(world.submit(ALICE), TaskAllowed)


def test_an_expired_allow_is_decided_again_with_one_reservation() -> None:
    world = World()
    allowed = world.allow(max_cost=2 * CENT)
    world.now_ms += CONFIG.decision_ttl_ms
    again = only(world.expire(allowed), TaskAllowed)
    assert again.reservation.reservation_id != allowed.reservation.reservation_id
    assert (world.reserved(), world.account().in_flight) == (2 * CENT, 1)


@pytest.mark.parametrize("times", [2, 5])
def test_a_task_that_is_delivered_again_is_decided_once(times: int) -> None:
    world = World()
    task = world.task()
    said = world.deliver(*[task] * times)
    assert [one.event_type for one in said] == ["task.allowed"]


def test_a_submission_that_comes_again_while_its_decision_has_expired_is_not_decided_by_it() -> None:
    world = World()
    task = world.task()
    world.deliver(task)
    world.desk.records = {task.data.task.task_id: TaskRecord(task.data.task.fingerprint, "expired")}  # type: ignore[attr-defined]
    assert world.deliver(task) == []


def test_the_same_request_with_another_body_is_a_conflict() -> None:
    world = World()
    first = world.task(request_id="r")
    other = world.task(request_id="r", fingerprint="0" * 64)
    assert [one.event_type for one in world.deliver(first, other)] == ["task.allowed"]


def test_what_was_not_reserved_is_not_released() -> None:
    """The last line behind the reservation's own end: an account never owes money to itself."""
    hold = Hold(ALICE.user_id, TENANT, ALICE.user_id, CENT, "2026-11-18T09", "2026-11")
    reserved = budget.reserve(Account(), hold)
    ended = budget.end(reserved, hold, "released", 0)
    with pytest.raises(ValueError, match="more released than reserved in 2026-11-18T09"):
        budget.end(ended, hold, "released", 0)
    take = Take("quota", "calls", "2026-11", 1)
    with pytest.raises(ValueError, match="more released than reserved of quota quota in 2026-11"):
        meters.ended(Account(), replace_struct(hold, takes=(take,)), "released", meters.Use(), NO_QUOTAS)
