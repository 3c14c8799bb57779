"""A lost attempt that is safe to retry: perhaps spent, so its reservation stays, and the next attempt needs its own."""

from __future__ import annotations

from dataclasses import replace

from shared.events.decisions import ReservationEnded, TaskAllowed, TaskBlocked
from shared.events.outcomes import DecisionExpired
from tests.unit.policy.world import ALICE, CENT, CONFIG, World


def lost(allowed: TaskAllowed) -> DecisionExpired:
    return DecisionExpired(task=allowed.task, decision_id=allowed.reservation.reservation_id, spend="uncertain")


def test_its_reservation_is_held_and_the_task_is_decided_again() -> None:
    world = World()
    allowed = world.allow(retry_safe=True)
    held, again = world.end(allowed, lost(allowed))
    assert isinstance(held, ReservationEnded) and (held.how, held.settled) == ("held", CENT)
    assert isinstance(again, TaskAllowed)
    assert again.reservation.reservation_id != allowed.reservation.reservation_id
    month = next(iter(world.desk.book(ALICE).user.months.values()))
    assert month.reserved == 2 * CENT


def test_what_may_be_spent_counts_against_the_cap() -> None:
    world = World(config=replace(CONFIG, monthly_cap=CENT))
    allowed = world.allow(retry_safe=True)
    held, again = world.end(allowed, lost(allowed))
    assert isinstance(held, ReservationEnded) and isinstance(again, TaskBlocked)
    assert again.reason == "monthly_cap_exceeded"


def test_a_second_delivery_of_the_loss_changes_nothing() -> None:
    world = World()
    allowed = world.allow(retry_safe=True)
    world.end(allowed, lost(allowed))
    assert world.end(allowed, lost(allowed)) == []
