"""What policy and the executor do while a model's breaker is open or half-open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from services.executor.execution import Go, Stop, before_call, without_answer
from services.policy.commit import commands
from services.policy.provider_breakers.config import BreakerConfig
from services.policy.store import PROBES, decode_probes
from shared.control_state import ControlState, evolve
from shared.events.control import parse_control
from shared.events.decisions import BlockReason, BreakerState, TaskBlocked
from shared.partitions import Partition
from tests.unit.executor.given import NOW_MS, delivery
from tests.unit.policy.world import ALICE, BOB, CONFIG, TaskAllowed, World, reason

GPT: Any = {"provider": "openai", "model": "gpt-4o-mini"}
OPEN: dict[str, Any] = {"state": "open", "previous": "closed", "version": 1, "until": "2027-01-01T00:00:00Z"}
HALF_OPEN: dict[str, Any] = {"state": "half_open", "previous": "open", "version": 2, "probes": 2}


def world(*changes: dict[str, Any], **config: Any) -> World:
    found = World(replace(CONFIG, provider_breakers=BreakerConfig(**config)))
    for change in changes:
        change_to(found, change)
    return found


def change_to(world: World, change: dict[str, Any]) -> None:
    world.order(type="provider_breaker.changed", **GPT, reason="5 failures in a row", **change)


def test_while_open_no_call_of_the_model_is_allowed_whoever_asks() -> None:
    one = world(OPEN)
    for owner in (ALICE, BOB):
        blocked = one.submit(owner, **GPT)
        assert isinstance(blocked, TaskBlocked)
        assert (blocked.reason, blocked.rule) == ("provider_breaker_open", "provider_breaker")
        assert blocked.explanation["reason"] == "5 failures in a row" and blocked.explanation["until_ms"]
    assert isinstance(one.submit(ALICE, provider="openai", model="gpt-4o"), TaskAllowed), "another model"


def test_while_open_the_cache_may_answer_and_nothing_is_reserved() -> None:
    allowed = world(OPEN).allow(**GPT, cache_key="k")
    assert allowed.cache_only and allowed.cache_only_reason == BlockReason.PROVIDER_BREAKER_OPEN
    assert allowed.reservation.amount == 0


def test_it_does_not_hold_where_it_is_switched_off() -> None:
    assert isinstance(world(OPEN, enabled=False).submit(**GPT), TaskAllowed)


def test_a_half_open_breaker_lets_so_many_probes_through_a_partition_and_an_open_time() -> None:
    one = world(OPEN, HALF_OPEN)
    allowed = [one.allow(owner, **GPT) for owner in (ALICE, BOB)]
    assert all(probe.probe for probe in allowed)
    assert reason(one.submit(**GPT)) == "provider_breaker_open"
    assert one.allow(**GPT, cache_key="k").cache_only
    one.now_ms += 29_999
    assert reason(one.submit(**GPT)) == "provider_breaker_open"
    one.now_ms += 1
    assert one.allow(**GPT).probe, "those before may have been lost"


def test_the_probes_of_another_opening_do_not_count() -> None:
    one = world(OPEN, HALF_OPEN)
    one.allow(**GPT)
    one.allow(BOB, **GPT)
    change_to(one, {**OPEN, "version": 3})
    assert reason(one.submit(**GPT)) == "provider_breaker_open"
    change_to(one, {**HALF_OPEN, "version": 4})
    assert one.allow(**GPT).probe
    assert {probes.version for probes in one.desk.probes.values()} == {4}


def test_what_is_blocked_for_another_reason_takes_no_probes_place() -> None:
    one = world(OPEN, HALF_OPEN)
    for _ in range(5):
        assert reason(one.submit(**GPT, kill_switch=True)) == "provider_kill_switch"
    assert one.allow(**GPT).probe


def test_probes_are_committed_with_their_decisions() -> None:
    one = world(OPEN, HALF_OPEN)
    turn = one.new_turn()
    event = one.task(**GPT)
    one.deliver(event)  # loads the accounts
    turn.tasks([one._input("tasks", one.task(BOB, **GPT))])
    batch, _ = commands(Partition(7), turn.changes, {}, 1000)
    (stored,) = [word[3] for word in batch if word[:3] == ("HSET", "{skeldir:7}:policy", PROBES)]
    assert isinstance(stored, bytes)
    assert decode_probes(stored) == one.desk.probes and one.desk.probes[GPT["provider"], GPT["model"]].count == 2
    assert decode_probes(None) == {}


def test_a_reset_lets_everything_through_again() -> None:
    one = world(OPEN)
    one.order(type="provider_breaker.reset", **GPT, reason="mended", actor="ann")
    assert not one.allow(**GPT).probe
    after = one.control.provider_breakers[GPT["provider"], GPT["model"]]
    assert (after.state, after.version, after.actor) == (BreakerState.CLOSED, 2, "ann")


def executors(*changes: tuple[str, dict[str, Any]]) -> ControlState:
    control = ControlState()
    for entry_id, change in changes:
        event = {"type": "provider_breaker.changed", **GPT, "reason": "r", **change}
        control = evolve(control, entry_id, parse_control(orjson.dumps(event)))
    return control


def decided_at(position: str, **fields: Any) -> Any:
    found = delivery(**GPT, **fields)
    return replace(found, allowed=found.allowed.model_copy(update={"control_position": position}))


@pytest.mark.parametrize(
    ("position", "goes"),
    [
        ("3-0", False),  # before the breaker opened
        ("5-0", False),  # allowed by nothing that holds: the half-open state came later
        ("7-0", True),  # a probe
        ("9-0", True),  # policy knew more than has come here yet
    ],
)
def test_the_last_look_stops_what_was_allowed_before_the_breaker_changed(position: str, goes: bool) -> None:
    control = executors(("5-0", OPEN), ("7-0", HALF_OPEN))
    for said in (
        before_call(decided_at(position), control, stale=False, now_ms=NOW_MS),
        without_answer(decided_at(position), control),
    ):
        assert isinstance(said, Go) is goes
        if isinstance(said, Stop):
            assert said.reason == BlockReason.PROVIDER_BREAKER_OPEN and said.explanation["state"] == "half_open"


def test_a_closed_breaker_and_that_of_another_model_stop_nothing() -> None:
    closed = {"state": "closed", "previous": "half_open", "version": 3}
    control = executors(("5-0", OPEN), ("7-0", HALF_OPEN), ("8-0", closed))
    assert before_call(decided_at("3-0"), control, stale=False, now_ms=NOW_MS) == Go()
    assert before_call(delivery(), executors(("5-0", OPEN)), stale=False, now_ms=NOW_MS) == Go()


def test_the_executor_says_which_breaker_left_only_the_cache() -> None:
    found = delivery(cache_only=True)
    said = without_answer(found, ControlState())
    assert isinstance(said, Stop) and said.reason == BlockReason.BREAKER_OPEN
    why = {"cache_only_reason": BlockReason.PROVIDER_BREAKER_OPEN}
    said = without_answer(replace(found, allowed=found.allowed.model_copy(update=why)), ControlState())
    assert isinstance(said, Stop) and said.reason == BlockReason.PROVIDER_BREAKER_OPEN
