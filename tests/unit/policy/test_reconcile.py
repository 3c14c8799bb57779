"""An operator's word on an uncertain attempt ends the reservation that is held for it: once, at what was charged."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from shared.events.decisions import ReservationEnded
from shared.events.outcomes import AttemptResolved
from shared.money import MAX_NANOCENTS, to_cents
from tests.unit.policy.world import CENT, CONFIG, World, only, reason


@pytest.mark.parametrize(
    ("cents", "how", "spent", "overrun"), [("0.3", "settled", 0.3, 0), ("0", "released", 0, 0), ("3", "settled", 3, 2)]
)
def test_it_ends_at_what_was_charged(cents: str, how: str, spent: float, overrun: int) -> None:
    world = World()
    allowed = world.allow(max_cost=CENT)
    world.fail(allowed, "uncertain")
    assert world.reserved() == CENT
    said = world.reconcile(allowed, cents)
    resolved, ended = only(said, AttemptResolved), only(said, ReservationEnded)
    assert (resolved.by, resolved.task.request_id) == ("ann", allowed.task.request_id)
    assert (ended.how, ended.settled, ended.overrun) == (how, int(spent * CENT), overrun * CENT)
    assert (world.reserved(), world.spent()) == (0, int(spent * CENT))


def test_a_second_word_changes_nothing_nor_does_a_late_result() -> None:
    world = World()
    allowed = world.allow()
    world.fail(allowed, "uncertain")
    world.reconcile(allowed, "0.5")
    assert world.reconcile(allowed, "0.9") == []
    assert world.resolve(allowed, CENT) == []
    assert world.spent() == CENT // 2


def test_words_that_sum_to_more_than_an_amount_can_be_count_in_full() -> None:
    world = World()
    held = [world.allow(), world.allow()]
    for one in held:
        world.fail(one, "uncertain")
        ended = only(world.reconcile(one, str(to_cents(MAX_NANOCENTS))), ReservationEnded)
        assert ended.settled == MAX_NANOCENTS
    assert world.spent() == 2 * MAX_NANOCENTS and {one.spent for one in ended.balances} == {2 * MAX_NANOCENTS}
    assert reason(world.submit()) == "hourly_threshold_exceeded"


def test_a_word_that_cannot_be_taken_in_stops_nobody_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    first, second = world.allow(), world.allow()
    for one in (first, second):
        world.fail(one, "uncertain")
    with monkeypatch.context() as broken:
        broken.setattr("services.policy.turn.decide_end", lambda *_: 1 / 0)
        assert world.reconcile(first, "0") == []
    assert world.reserved() == 2 * CENT
    world.reconcile(second, "0")
    assert world.reserved() == CENT


def test_what_is_in_flight_is_not_uncertain() -> None:
    world = World()
    allowed = world.allow()
    assert world.reconcile(allowed, "0") == []
    assert world.reserved() == CENT
    world.succeed(allowed, CENT)
    assert world.spent() == CENT


def test_another_tenants_word_counts_for_nothing() -> None:
    world = World()
    allowed = world.allow()
    world.fail(allowed, "uncertain")
    assert world.reconcile(allowed, "0", tenant_id=UUID(int=7)) == []
    assert world.reserved() == CENT


def test_what_was_not_spent_can_be_spent() -> None:
    world = World(config=replace(CONFIG, monthly_cap=CENT))
    allowed = world.allow()
    world.fail(allowed, "uncertain")
    assert reason(world.submit()) == "monthly_cap_exceeded"
    world.reconcile(allowed, "0")
    world.allow()


def test_the_breaker_does_not_count_it_again() -> None:
    world = World()
    allowed = world.allow()
    world.fail(allowed, "uncertain")
    failures = world.account().breaker.failures
    world.reconcile(allowed, "0")
    assert world.account().breaker.failures == failures
