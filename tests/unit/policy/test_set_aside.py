"""What cannot be taken in is set aside, and so is what comes behind it for the same task; in order, it comes back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.policy import inputs
from services.policy.decide import decide_task
from services.policy.inputs import Input, Unreadable, read
from services.policy.turn import MAX_ASIDE, Turn
from shared.control_acts import LetterReturned
from shared.events.decisions import BlockReason, TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope, Payload, follow
from shared.events.outcomes import AttemptResolved, DecisionExpired, TaskFailed, Usage
from shared.events.registry import EVENTS
from shared.events.tasks import Task
from tests.unit.policy.world import CENT, World, only, ref

ORIGIN = "{skeldir:0}:outcomes"


class Case:
    """An allowed task whose failure came from a release of tomorrow, and whose late result is of today's."""

    def __init__(self) -> None:
        self.world = World()
        self.allowed = self.world.allow()
        self.decision = next(event for event in self.world.log if event.data is self.allowed)
        about = {"task": ref(self.allowed.task), "decision_id": self.decision.id}
        failed = TaskFailed(
            **about, reason="provider_timeout", provider_attempted=True, counts_for_breaker=True, spend="uncertain"
        )
        self.failure = self._follow(failed)
        raw = orjson.loads(self.failure.to_json())
        raw["dataschema"] = raw["dataschema"].replace(":1", ":2")
        self.newer = read("outcomes", "5-0", orjson.dumps(raw))
        resolved = AttemptResolved(**about, spend="certain", usage=Usage(cost=7), by="late_result")
        self.late = Input("outcomes", "6-0", self._follow(resolved))

    def _follow(self, payload: Any) -> Envelope:
        return follow(self.decision, payload, source="/skeldir/executor", now_ms=self.world.now_ms)

    def turn(self) -> Turn:
        return self.world.new_turn()


def letter(entry_id: str = "5-0", *, discard: bool = False, origin: str = ORIGIN) -> LetterReturned:
    return LetterReturned("9-0", origin, entry_id, discard)


def hows(turn: Turn) -> list[str]:
    return [event.data.how for event in turn.changes.events if event.type == "reservation.ended"]  # type: ignore[attr-defined]


@pytest.fixture
def case() -> Case:
    return Case()


def test_what_comes_behind_it_for_the_same_task_waits(case: Case) -> None:
    assert isinstance(case.newer, Unreadable) and "newer than this release" in case.newer.problem
    other = case.world.allow()
    turn = case.turn()
    turn.outcomes([case.newer, case.late])
    assert hows(turn) == []
    assert list(turn.changes.aside) == ["5-0/outcomes", "6-0/outcomes"]
    assert [reason for _, reason in turn.changes.dead][1].startswith("behind")
    assert case.world.succeed(other, CENT), "another task flows on"


def test_it_comes_back_in_order_once_it_can_be_read(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.turn().outcomes([case.newer, case.late])
    again = case.turn()
    again.act([letter()])
    assert hows(again) == [] and len(again.changes.aside) == 2, "not readable yet: set aside again"
    monkeypatch.setattr(inputs, "EVENTS", _Upgraded())
    upgraded = case.turn()
    upgraded.act([letter()])
    assert hows(upgraded) == ["held", "settled"]
    assert upgraded.changes.returned == ["5-0/outcomes", "6-0/outcomes"] and not upgraded.changes.aside
    assert case.world.desk.aside_count == 0 and case.world.spent() == 7


def test_given_up_it_lets_go_what_waits_behind_it(case: Case) -> None:
    case.turn().outcomes([case.newer, case.late])
    turn = case.turn()
    turn.act([letter(discard=True)])
    assert hows(turn) == ["settled"]
    assert case.world.desk.aside_count == 0


def test_a_failing_rule_sets_the_entry_aside_and_a_retry_takes_it_in(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Input("outcomes", "5-0", case.failure)
    with monkeypatch.context() as broken:
        broken.setattr("services.policy.turn.decide_end", lambda *_: 1 / 0)
        turn = case.turn()
        turn.outcomes([failure, case.late])
        assert [one.key for one, _ in turn.changes.dead] == ["5-0/outcomes", "6-0/outcomes"]
    again = case.turn()
    again.act([letter()])
    assert hows(again) == ["held", "settled"]


def refused_by_failing_rules(said: list[Payload]) -> list[str]:
    """The requests that were blocked since the rules failed on them."""
    blocked = [one for one in said if isinstance(one, TaskBlocked) and one.reason == BlockReason.POLICY_ERROR]
    return [one.task.request_id for one in blocked]


@pytest.fixture
def failing_on_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that fail on the task `bad`, whenever they are asked about it."""

    def decide(book: Any, task: Task, *rest: Any) -> Any:
        if task.request_id == "bad":
            raise ValueError("a rule failed")
        return decide_task(book, task, *rest)

    monkeypatch.setattr("services.policy.turn.decide_task", decide)


@pytest.mark.usefixtures("failing_on_bad")
def test_rules_that_fail_on_a_task_that_waited_block_it_and_what_waits_behind_it_goes_on() -> None:
    world = World(rules_may_fail=True)
    out = [world.allow() for _ in range(world.config.failure_threshold)]
    assert world.submit() is None, "as many calls are out as may be: it waits"
    assert world.submit(request_id="bad") is None and world.submit() is None, "and what comes behind it does, too"
    said = [payload for one in out for payload in world.succeed(one)]
    assert refused_by_failing_rules(said) == ["bad"]
    assert len([one for one in said if isinstance(one, TaskAllowed)]) == 2 and not world.desk.parked


@pytest.mark.usefixtures("failing_on_bad")
def test_rules_that_fail_on_a_task_whose_decision_expired_block_it() -> None:
    world = World(rules_may_fail=True)
    allowed = world.allow()
    given_back = DecisionExpired(
        task=allowed.task.model_copy(update={"request_id": "bad"}),
        decision_id=allowed.reservation.reservation_id,
        spend="none",
    )
    assert refused_by_failing_rules(world.end(allowed, given_back)) == ["bad"]
    assert world.reserved() == 0 and not world.desk.aside


@pytest.mark.parametrize("act", [letter("7-0"), letter("5-0", origin="{skeldir:0}:tasks")], ids=["entry", "stream"])
def test_an_order_about_nothing_changes_nothing(case: Case, act: LetterReturned) -> None:
    case.turn().outcomes([case.newer])
    turn = case.turn()
    turn.act([act])
    assert not turn.changes.events and not turn.changes.returned and case.world.desk.aside_count == 1


def test_bytes_that_say_nothing_stand_for_themselves(case: Case) -> None:
    turn = case.turn()
    turn.outcomes([read("outcomes", "1-0", b"\xff"), read("outcomes", "2-0", None), case.late])
    assert list(turn.changes.aside) == ["1-0/outcomes", "2-0/outcomes"]
    assert hows(turn) == ["settled"]


def test_too_many_are_letters_alone(case: Case) -> None:
    case.world.desk.aside_count = MAX_ASIDE
    turn = case.turn()
    turn.outcomes([case.newer])
    assert turn.changes.dead and not turn.changes.aside


def test_a_task_of_tomorrows_release_is_decided_after_the_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(rules_may_fail=True)
    raw = orjson.loads(world.task().to_json())
    raw["dataschema"] = raw["dataschema"].replace(":1", ":2")
    world.allow()  # so that the accounts are in memory
    world.new_turn().tasks([read("tasks", "3-0", orjson.dumps(raw))])
    monkeypatch.setattr(inputs, "EVENTS", _Upgraded())
    turn = world.new_turn()
    turn.act([letter("3-0", origin="{skeldir:0}:tasks")])
    assert only([event.data for event in turn.changes.events], TaskAllowed)


class _Upgraded:
    """A registry that knows version 2 of everything."""

    def decode(self, data: bytes | None) -> Envelope:
        assert data is not None
        return EVENTS.decode(data.replace(b':2"', b':1"'))
