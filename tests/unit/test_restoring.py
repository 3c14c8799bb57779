"""How tasks end that had no end in the books when the log was lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.policy.evolve import Effect, Lesson, effect_of
from shared.events.decisions import TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope
from shared.events.outcomes import TaskFailed
from skeldir.restoring.ends import Ended, end_of, still_to_settle
from tests.unit.ledger.history import CENT, History, Op, play

NOW_MS = 5_000


def events_of_the_task(history: History) -> list[Envelope]:
    """Of the one task that there is."""
    return [event for _, _, event in history.entries]


def ended(ops: Sequence[Op], but: str = "") -> tuple[Ended, History]:
    """The end of a task of which this happened; without events of the type `but`, which the books did not get."""
    history = play(ops)
    events = [event for event in events_of_the_task(history) if event.type != but]
    live = next((one.id for one in events if isinstance(one.data, TaskAllowed) and one.id in history.desk.holds), None)
    found = end_of(events, live, "7-0", NOW_MS)
    assert found is not None
    return found, history


def test_one_that_was_not_decided_is_blocked() -> None:
    found, _ = ended([("submit", 0, 2)], but="task.allowed")
    blocked = found.event.data
    assert isinstance(blocked, TaskBlocked) and (blocked.reason, blocked.decision_id) == ("log_lost", None)
    assert (found.stream, found.event.source) == ("decisions", "/skeldir/restore")


def test_one_that_was_allowed_may_have_been_called() -> None:
    found, history = ended([("submit", 0, 2)])
    failed = found.event.data
    assert isinstance(failed, TaskFailed) and not failed.provider_attempted and failed.attempt_id is None
    assert failed.decision_id in history.desk.holds and found.stream == "outcomes"
    assert effect_of(failed) == Effect("held", lesson=Lesson.UNDECIDED)


def test_one_whose_attempt_is_in_the_books_was_called_perhaps() -> None:
    history = play([("submit", 0, 2)])
    ((_, allowed),) = history.live
    history.start(allowed)
    found = end_of(events_of_the_task(history), allowed.reservation.reservation_id, "7-0", NOW_MS)
    assert found is not None and isinstance(found.event.data, TaskFailed)
    assert found.event.data.provider_attempted and found.event.data.attempt_id is not None


def test_one_that_was_given_back_is_not_decided_again() -> None:
    """Its reservation is released, as policy would have done before it had decided anew."""
    history = play([("submit", 0, 2), ("expire", 0, 0)])
    events = events_of_the_task(history)
    first = next(one for one in events if isinstance(one.data, TaskAllowed))
    until_then = [one for one in events if one.type in ("task.submitted", "decision.expired") or one is first]
    found = end_of(until_then, first.id, "7-0", NOW_MS)
    assert found is not None and isinstance(found.event.data, TaskBlocked)
    assert found.event.data.decision_id == first.id and effect_of(found.event.data).how == "released"


def test_without_its_submission_there_is_nothing_to_end() -> None:
    assert end_of([], None, "7-0", NOW_MS) is None


@pytest.mark.parametrize(("ops", "kinds"), [([("succeed", 0, 4)], ["task.succeeded"]), ([], [])])
def test_what_policy_had_not_taken_in_is_read_again(ops: list[Op], kinds: list[str]) -> None:
    history = play([("submit", 0, 2), *ops])
    events = events_of_the_task(history)
    allowed = next(one for one in events if isinstance(one.data, TaskAllowed))
    assert [one.type for one in still_to_settle(events, allowed.id)] == kinds


def test_a_late_result_of_what_is_held_is_read_again() -> None:
    history = play([("submit", 0, 2), ("fail", 0, 2)])
    (allowed,) = history.held
    history.resolve(allowed, CENT)
    found = still_to_settle(events_of_the_task(history), allowed.reservation.reservation_id)
    assert [one.type for one in found] == ["task.failed", "attempt.resolved"]
