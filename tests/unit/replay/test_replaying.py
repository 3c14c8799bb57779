"""A replay under the recorded limits is the recording; under others it says what would have been."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.state import PolicyConfig
from shared.control_state import order_of
from shared.events.control import parse_control
from shared.events.decisions import TaskAllowed
from shared.settings import Settings
from skeldir.replay.recording import steps
from skeldir.replay.replaying import Replay
from skeldir.replay.scenario import InvalidLimits, Orders, Scenario, parse
from skeldir.replay.tally import ALLOWED, Kind, Tally
from tests.simulation import books, scheduler
from tests.simulation.world import CONFIG as SIMULATED
from tests.unit.ledger.history import NAMES, History, play
from tests.unit.policy.world import ALICE, BOB, CENT, TENANT

SEEDS = 15


def orders_of(entries: list[tuple[str, bytes]]) -> Orders:
    known = [(entry_id, parse_control(data)) for entry_id, data in entries]
    return sorted(known, key=lambda one: order_of(one[0]))


def replayed(history: History, scenario: Scenario | None = None, since_ms: int = 0) -> Tally:
    """The history's partition, replayed; no scenario: the recorded limits."""
    recorded = Scenario(history.config)
    events = {event.id: event for _, _, event in history.entries}
    decisions = [event for stream, _, event in history.entries if stream.endswith(":decisions")]
    one = Replay(orders_of(history.orders), scenario or recorded, recorded, since_ms)
    return one.run(steps(decisions, events))


def limits(history: History, **changed: Any) -> Scenario:
    return Scenario(replace(history.config, **changed))


def test_simulated_histories_are_reproduced() -> None:
    decided = outside = 0
    for seed in range(SEEDS):
        world = scheduler.run(seed)
        known = {entry.event.id: entry.event for entry in books.entries(world)}
        made = [entry.event for entry in books.entries(world) if entry.stream == "decisions"]
        recorded = Scenario(SIMULATED)
        tally = Replay(orders_of(world.log.control), recorded, recorded).run(steps(made, known))
        assert not tally.changed and not tally.unjudged and not tally.waiting, (seed, tally)
        assert all(sums.recorded == sums.replayed and not sums.estimated for sums in tally.kinds.values()), seed
        assert all(sums.recorded_held == sums.replayed_held for sums in tally.kinds.values()), seed
        decided += tally.decisions
        outside += sum(tally.outside.values())
    assert decided > SEEDS * 5 and outside, "there was something to reproduce, and something outside of it"


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 5), st.integers(0, 9)), max_size=60))
@settings(max_examples=20, deadline=None)
def test_any_history_is_reproduced_from_any_moment(ops: Any) -> None:
    history = play(ops)
    middle = (history.now_ms + play([]).now_ms) // 2
    for since_ms in (0, middle):
        tally = replayed(history, since_ms=since_ms)
        assert not tally.changed and not tally.unjudged and not tally.waiting, tally
        assert all(sums.recorded == sums.replayed for sums in tally.kinds.values())


def spend(history: History, cents: int, owner: Any = ALICE) -> None:
    history.now_ms += 1000
    allowed = history.submit(owner, max_cost=cents * CENT)
    if allowed is not None and allowed.event_type == "task.allowed":
        history.live.clear()
        history.now_ms += 500
        history.succeed(allowed, cost=cents * CENT)  # type: ignore[arg-type]


def given_history(**changed: Any) -> History:
    return History(config=replace(play([]).config, **changed))


def test_a_lower_cap_blocks_and_says_what_it_saves() -> None:
    history = given_history(monthly_cap=100 * CENT, hourly_threshold=100 * CENT)
    for _ in range(5):
        spend(history, 4)
    tally = replayed(history, limits(history, monthly_cap=9 * CENT))
    (kind, sums), *others = tally.changed.items()
    assert not others and kind == Kind(TENANT, ALLOWED, "monthly_cap_exceeded")
    assert (sums.decisions, sums.recorded, sums.replayed, sums.estimated) == (3, 12 * CENT, 0, 0)
    assert tally.kinds[Kind(TENANT, ALLOWED, ALLOWED)].replayed == 8 * CENT


def test_a_higher_cap_allows_at_an_estimate_that_is_kept_apart() -> None:
    history = given_history(monthly_cap=100 * CENT, hourly_threshold=9 * CENT)
    for _ in range(5):
        spend(history, 4)
    tally = replayed(history, limits(history, hourly_threshold=17 * CENT))
    kind = Kind(TENANT, "hourly_threshold_exceeded", ALLOWED)
    assert tally.changed.keys() == {kind}
    sums = tally.changed[kind]
    assert (sums.decisions, sums.recorded, sums.replayed, sums.estimated) == (2, 0, 0, 8 * CENT)
    # The fifth task finds the estimate of those before it under the limit.
    assert tally.kinds[Kind(TENANT, "hourly_threshold_exceeded", "hourly_threshold_exceeded")].decisions == 1


def test_a_higher_threshold_keeps_the_breaker_closed() -> None:
    history = given_history(failure_threshold=2)
    for _ in range(2):
        history.now_ms += 10
        history.fail(history.allow(), "none")
    assert history.submit().reason == "breaker_open"  # type: ignore[union-attr]
    assert replayed(history, limits(history, failure_threshold=9)).changed.keys() == {
        Kind(TENANT, "breaker_open", ALLOWED)
    }


def test_a_task_that_has_to_wait_now_is_decided_later() -> None:
    history = given_history(failure_threshold=3)
    allowed = [history.allow() for _ in range(3)]
    for one in allowed:
        history.now_ms += 10
        history.succeed(one, cost=CENT)
    tally = replayed(history, limits(history, failure_threshold=1))
    assert not tally.changed and not tally.waiting
    assert tally.kinds[Kind(TENANT, ALLOWED, ALLOWED)].replayed == 3 * CENT


def test_a_call_that_was_never_made_takes_a_place_for_as_long_as_calls_took() -> None:
    history = given_history(max_in_flight=1)
    for _ in range(2):  # one in flight; two that find no room
        allowed = history.allow()
        blocked = [history.submit() for _ in range(2)]
        assert all(one.reason == "max_in_flight_exceeded" for one in blocked)  # type: ignore[union-attr]
        history.now_ms += 1000
        history.succeed(allowed, cost=CENT)
        history.now_ms += 1000
    # Nothing was known of how long calls take when the first two came.
    tally = replayed(history, limits(history, max_in_flight=2))
    assert {kind.before + " " + kind.after: sums.decisions for kind, sums in tally.kinds.items()} == {
        "allowed allowed": 2,
        "max_in_flight_exceeded allowed": 3,
        "max_in_flight_exceeded max_in_flight_exceeded": 1,
    }


def test_a_blocked_task_whose_allow_expired_is_not_decided_again() -> None:
    history = given_history()
    (again,) = [one for one in history.expire(history.allow()) if isinstance(one, TaskAllowed)]
    history.succeed(again, cost=CENT)
    tally = replayed(history, limits(history, monthly_cap=0))
    (kind,) = tally.kinds
    assert kind.after == "monthly_cap_exceeded"
    assert (tally.kinds[kind].decisions, tally.kinds[kind].recorded, tally.kinds[kind].replayed) == (1, CENT, 0)
    assert not tally.unjudged


def test_what_no_rule_refused_stays_and_is_listed() -> None:
    history = given_history(failure_threshold=1)
    history.max_parked = 0
    history.allow()
    assert history.submit().reason == "max_in_flight_exceeded"  # type: ignore[union-attr]
    tally = replayed(history, limits(history, failure_threshold=5))
    assert not tally.changed and tally.outside == {"max_in_flight_exceeded": 1}


def test_one_users_limit_leaves_others_alone_and_holds_over_what_was_ordered() -> None:
    history = given_history(monthly_cap=100 * CENT, hourly_threshold=100 * CENT)
    for owner in (ALICE, BOB):
        history.order(type="limits.set", scope={"tenant": str(TENANT), "user": str(owner.user_id)}, monthly_cents=50)
        spend(history, 4, owner)
    scope = {"tenant": str(TENANT), "user": str(BOB.user_id)}
    given = parse({"limits": [{"scope": scope, "monthly_cents": 3}]}, Settings())
    tally = replayed(history, replace(given, config=history.config))
    assert {kind: sums.decisions for kind, sums in tally.kinds.items()} == {
        Kind(TENANT, ALLOWED, ALLOWED): 1,
        Kind(TENANT, ALLOWED, "monthly_cap_exceeded"): 1,
    }


def test_a_quota_of_the_file_counts_over_the_whole_recording() -> None:
    history = given_history(monthly_cap=100 * CENT, hourly_threshold=100 * CENT)
    for _ in range(4):
        history.order(type="limits.set", scope={"tenant": str(TENANT)}, monthly_cents=1000)  # its position moves on
        spend(history, 4)
    quota = {"type": "quota.set", "scope": {"tenant": str(TENANT)}, "window": "month", "calls": 3}
    given = replace(parse({"orders": [quota]}, Settings()), config=history.config)
    tally = replayed(history, given)
    assert sorted(sums.decisions for sums in tally.kinds.values()) == [1, 3], tally.kinds


def test_recorded_limits_can_be_left_out() -> None:
    history = given_history(monthly_cap=100 * CENT, hourly_threshold=100 * CENT)
    history.order(type="limits.set", scope={"tenant": str(TENANT), "user": str(ALICE.user_id)}, monthly_cents=1)
    spend(history, 4)
    without = Scenario(history.config, recorded_limits=False)
    assert replayed(history, without).changed.keys() == {Kind(TENANT, "monthly_cap_exceeded", ALLOWED)}


def test_what_was_decided_before_the_period_stays_and_counts() -> None:
    history = given_history(monthly_cap=100 * CENT, hourly_threshold=100 * CENT)
    for _ in range(3):
        spend(history, 4)
    since_ms = history.now_ms + 1
    spend(history, 4)
    tally = replayed(history, limits(history, monthly_cap=13 * CENT), since_ms)
    assert {kind: sums.decisions for kind, sums in tally.kinds.items()} == {
        Kind(TENANT, ALLOWED, "monthly_cap_exceeded"): 1
    }


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"setings": {}}, "setings"),
        ({"settings": {"lease_ttl_ms": 1}}, "lease_ttl_ms"),
        ({"settings": {"max_in_flight": -1}}, "settings: max_in_flight"),
        ({"limits": [{"monthly_cents": 1}]}, "limits.0.scope"),
        ({"limits": [{"scope": {"tenant": str(TENANT)}, "monthly": 1}]}, "monthly"),
        ({"orders": [{"type": "key.revoked", "key_id": "a"}]}, "key.revoked"),
        ({"orders": [{"type": "unheard.of"}]}, "unheard.of"),
    ],
)
def test_a_file_that_says_nothing_sound_is_refused(given: Any, problem: str) -> None:
    with pytest.raises(InvalidLimits, match=problem):
        parse(given, Settings())


def test_settings_of_the_file_are_the_deciders() -> None:
    found = parse({"settings": {"monthly_cap_cents": 7, "breaker_open_seconds": 2}}, Settings())
    assert found.config == replace(PolicyConfig.from_settings(Settings()), monthly_cap=7 * CENT, open_ms=2000)
