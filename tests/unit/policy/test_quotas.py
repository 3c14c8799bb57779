"""Quotas: what a scope may use in a window is reserved before the call and settled at what was used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from services.policy import store
from services.policy.state import Account, Meter
from shared.control_state import ControlState, evolve
from shared.events.control import InvalidControl, parse_control
from shared.events.decisions import LimitNeared
from shared.events.outcomes import TaskFailed, TaskSucceeded, Usage
from shared.events.registry import EVENTS
from shared.quotas import window_end_ms, window_start
from tests.unit.policy.world import (
    ALICE,
    BOB,
    CENT,
    CONFIG,
    START_MS,
    TENANT,
    ReservationEnded,
    TaskAllowed,
    TaskBlocked,
    World,
    only,
    reason,
    ref,
)

MINUTE = 60_000
T = {"tenant_id": str(TENANT)}


def world_with(scope: dict[str, Any] | None = None, **quota: Any) -> World:
    world = World(config=replace(CONFIG, failure_threshold=1000))
    limit(world, scope, **quota)
    return world


def limit(world: World, scope: dict[str, Any] | None = None, **quota: Any) -> None:
    world.order(type="quota.set", scope={**T, **(scope or {})}, actor="ann", **quota)


def meters(world: World) -> list[tuple[int, int]]:
    """Spent and reserved of every meter's windows, in order."""
    found = world.desk.accounts[TENANT, None].meters
    return [(one.spent, one.reserved) for windows in found.values() for _, one in sorted(windows.items())]


def use_tokens(world: World, allowed: TaskAllowed, inputs: int, outputs: int) -> ReservationEnded:
    success = TaskSucceeded(
        task=ref(allowed.task),
        decision_id=allowed.reservation.reservation_id,
        was_cached=False,
        provider_attempted=True,
        output_text="",
        usage=Usage(input_tokens=inputs, output_tokens=outputs),
    )
    return only(world.end(allowed, success), ReservationEnded)


def test_a_burst_cannot_pass_a_number_of_calls() -> None:
    world = world_with(window="minute", calls=5)
    verdicts = [world.submit(owner) for owner in (ALICE, BOB) * 10]
    assert sum(isinstance(one, TaskAllowed) for one in verdicts) == 5
    assert {reason(one) for one in verdicts[5:]} == {"quota_exceeded"}
    assert meters(world) == [(0, 5)]


def test_the_refusal_says_which_quota_what_is_left_and_until_when() -> None:
    world = world_with({"user_id": str(ALICE.user_id), "task_type": "route"}, window="hour", calls=1)
    world.succeed(world.allow())
    world.now_ms += 5 * MINUTE
    refused = world.submit()
    assert isinstance(refused, TaskBlocked) and refused.rule == "quota"
    said = refused.explanation
    assert said["scope"] == {"user_id": str(ALICE.user_id), "task_type": "route"}
    assert (said["unit"], said["window"], said["limit"]) == ("calls", "hour", 1)
    assert (said["spent"], said["reserved"], said["wanted"]) == (1, 0, 1)
    assert (said["window_start"], said["resets_at_ms"]) == (
        "2026-11-18T11",
        (START_MS // (60 * MINUTE) + 1) * 60 * MINUTE,
    )


@pytest.mark.parametrize(
    ("window", "later_ms"),
    [("minute", MINUTE), ("hour", 60 * MINUTE), ("day", 24 * 60 * MINUTE), ("month", 31 * 24 * 60 * MINUTE)],
)
def test_a_quota_is_free_again_in_the_next_window(window: str, later_ms: int) -> None:
    world = world_with(window=window, calls=1)
    world.succeed(world.allow())
    end_ms = window_end_ms(window, window_start(window, START_MS))  # type: ignore[arg-type]
    assert end_ms is not None and START_MS < end_ms <= START_MS + later_ms
    world.now_ms = end_ms - 1
    assert reason(world.submit()) == "quota_exceeded"
    world.now_ms = end_ms
    assert world.allow()


def test_a_clock_that_goes_back_opens_no_window_again() -> None:
    world = world_with(window="minute", calls=1)
    world.now_ms += MINUTE
    world.succeed(world.allow())
    world.now_ms -= MINUTE
    assert reason(world.submit()) == "quota_exceeded"


@pytest.mark.parametrize(
    ("scope", "inside", "outside"),
    [
        ({"user_id": str(ALICE.user_id)}, {}, {"owner": BOB}),
        ({"key_id": "key-one"}, {"key_id": "key-one"}, {"key_id": "key-two"}),
        ({"key_id": "key-one"}, {"key_id": "key-one"}, {}),
        ({"task_type": "route"}, {}, {"task_type": "explanation"}),
        ({"model": "stub:model"}, {}, {"model": "another"}),
        ({"provider": "stub"}, {}, None),
        ({"task_type": "route", "user_id": str(BOB.user_id)}, {"owner": BOB}, {}),
    ],
)
def test_a_scope_bounds_what_each_of_its_parts_matches(scope: Any, inside: Any, outside: Any) -> None:
    world = world_with(scope, window="day", calls=0)
    assert reason(world.submit(**inside)) == "quota_exceeded"
    if outside is not None:
        assert isinstance(world.submit(**outside), TaskAllowed)


def test_every_quota_that_bounds_a_task_is_reserved_in() -> None:
    world = world_with(window="minute", calls=10)
    limit(world, {"user_id": str(ALICE.user_id)}, window="day", cents=3)
    limit(world, {"task_type": "route"}, max_in_flight=2)
    allowed = world.allow(max_cost=2 * CENT)
    assert [(one.unit, one.amount, one.reserved, one.limit) for one in allowed.quotas] == [
        ("calls", 1, 1, 10),
        ("in_flight", 1, 1, 2),
        ("money", 2 * CENT, 2 * CENT, 3 * CENT),
    ]
    assert reason(world.submit(max_cost=2 * CENT)) == "quota_exceeded"
    assert world.allow(BOB, max_cost=2 * CENT)
    assert reason(world.submit(BOB)) == "quota_exceeded", "two in flight"
    assert [EVENTS.decode(event.to_json()).data for event in world.log] == [event.data for event in world.log]
    ended = only(world.succeed(allowed, cost=CENT), ReservationEnded)
    assert sorted((one.unit, one.spent, one.reserved) for one in ended.quotas) == [
        ("calls", 1, 1),
        ("in_flight", 0, 1),
        ("money", CENT, 0),
    ]


def test_tokens_are_reserved_at_their_bound_and_settled_at_what_was_used() -> None:
    world = world_with(window="hour", tokens=1000)
    allowed = world.allow(prompt={"text": "a" * 100})
    (balance,) = allowed.quotas
    assert 100 < balance.amount < 1000
    ended = use_tokens(world, allowed, 30, 12)
    assert [(one.spent, one.reserved) for one in ended.quotas] == [(42, 0)]


def test_a_real_models_output_is_part_of_its_bound() -> None:
    world = world_with(window="hour", tokens=3000)
    task: dict[str, Any] = {"provider": "openai", "model": "gpt-4o-mini", "max_cost": 0}
    allowed = world.allow(**task, prompt={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 700, "n": 2})
    assert 1400 < allowed.quotas[0].amount < 1600
    assert reason(world.submit(**task, prompt={"messages": [], "max_tokens": 1600})) == "quota_exceeded"


def test_more_than_was_reserved_counts_in_full() -> None:
    world = world_with(window="hour", tokens=1000)
    use_tokens(world, world.allow(), 900, 900)
    assert meters(world) == [(1800, 0)]
    assert reason(world.submit()) == "quota_exceeded"


def test_tokens_of_which_nobody_says_anything_count_as_reserved() -> None:
    world = world_with(window="hour", tokens=1000)
    allowed = world.allow()
    use_tokens(world, allowed, 0, 0)
    assert meters(world) == [(allowed.quotas[0].amount, 0)]


def test_what_was_never_called_is_given_back() -> None:
    world = world_with(window="hour", calls=1)
    limit(world, window="hour", cents=5)
    world.succeed(world.allow(), cached=True)
    assert meters(world) == [(0, 0), (0, 0)]
    world.fail(world.allow(), "none")
    assert meters(world) == [(1, 0), (0, 0)], "a failed call at no cost was a call"


def test_an_uncertain_attempt_stays_reserved_but_is_not_in_flight() -> None:
    world = world_with(max_in_flight=1)
    limit(world, window="minute", cents=9)
    allowed = world.allow(max_cost=4 * CENT)
    assert reason(world.submit()) == "quota_exceeded"
    world.fail(allowed, "uncertain")
    assert meters(world) == [(0, 0), (0, 4 * CENT)]
    world.now_ms += 5 * MINUTE
    world.succeed(world.allow(), cost=CENT)
    assert meters(world) == [(0, 0), (0, 4 * CENT), (CENT, 0)]
    stored = store.encode_account(world.desk.accounts[TENANT, None])
    assert store.decode_account(stored) == world.desk.accounts[TENANT, None]
    (hold,) = world.desk.holds.values()
    assert store.decode_hold(store.encode_hold(hold)) == hold and hold.takes
    world.reconcile(allowed, "2")
    assert meters(world) == [(0, 0), (2 * CENT, 0), (CENT, 0)], (
        "the event of an old window's last end says what it came to"
    )
    world.succeed(world.allow(), cost=CENT)
    assert meters(world) == [(0, 0), (2 * CENT, 0)], "and the next end of its quota forgets it"


def test_an_expired_decision_is_counted_once() -> None:
    world = world_with(window="minute", calls=1)
    again = only(world.expire(world.allow()), TaskAllowed)
    assert meters(world) == [(0, 1)]
    world.succeed(again)
    assert meters(world) == [(1, 0)]


def test_a_changed_quota_goes_on_counting() -> None:
    world = world_with(window="minute", calls=2)
    world.succeed(world.allow())
    limit(world, window="minute", calls=1)
    assert reason(world.submit()) == "quota_exceeded"
    limit(world, window="minute", calls=3)
    assert world.allow() and world.allow()
    assert reason(world.submit()) == "quota_exceeded"


def test_a_quota_that_is_unset_settles_what_it_holds_and_is_forgotten() -> None:
    world = world_with(window="minute", calls=2)
    first, second = world.allow(), world.allow()
    world.order(type="quota.unset", scope=T, unit="calls", window="minute", actor="ann")
    assert world.control.quotas == {}
    third = world.allow()
    assert third.quotas == []
    for allowed, said in ((first, [(1, 1)]), (second, [(2, 0)]), (third, [])):
        ended = only(world.succeed(allowed), ReservationEnded)
        assert [(one.spent, one.reserved) for one in ended.quotas] == said
    assert meters(world) == []
    limit(world, window="minute", calls=1)
    assert world.allow(), "set again, it counts from nothing"


def test_a_shadow_only_records_and_counts_what_it_would_have_let_through() -> None:
    world = world_with(window="minute", calls=2, mode="shadow")
    verdicts = [world.allow() for _ in range(4)]
    assert [len(one.quotas) for one in verdicts] == [1, 1, 0, 0]
    assert [len(one.shadowed) for one in verdicts] == [0, 0, 1, 1]
    assert (verdicts[3].shadowed[0].spent, verdicts[3].shadowed[0].reserved, verdicts[3].shadowed[0].shadow) == (
        0,
        2,
        True,
    )
    for one in verdicts:
        world.succeed(one)
    assert meters(world) == [(2, 0)]
    limit(world, window="minute", calls=2)
    assert reason(world.submit()) == "quota_exceeded", "the same quota, now enforced"


def test_a_cached_answer_under_an_open_breaker_asks_no_quota() -> None:
    world = World(config=replace(CONFIG, failure_threshold=1))
    world.fail(world.allow())
    limit(world, window="minute", calls=0)
    verdict = world.submit(cache_key="k")
    assert isinstance(verdict, TaskAllowed) and verdict.cache_only and verdict.quotas == []


def test_a_quota_warns_before_it_is_reached() -> None:
    world = world_with({"task_type": "route"}, window="day", calls=4)
    warned = [
        (one.percent, one.spent, one.cap, one.unit, one.bounds)
        for _ in range(4)
        for one in world.succeed(world.allow())
        if isinstance(one, LimitNeared) and one.scope == "quota"
    ]
    of = ("calls", {"task_type": "route"})
    assert warned == [(50, 2, 4, *of), (80, 4, 4, *of), (95, 4, 4, *of)]


def test_who_waits_behind_a_breaker_reserves_nothing() -> None:
    world = World()
    limit(world, window="minute", calls=9)
    verdicts = [world.submit() for _ in range(5)]
    assert verdicts.count(None) == 2 and meters(world) == [(0, 3)]


def test_accounts_and_holds_of_before_are_read() -> None:
    account = Account(meters={"1-1": {"2026-11": Meter(1, 2, 3)}})
    assert store.decode_account(store.encode_account(account)) == account
    world = World()
    world.allow()
    (hold,) = world.desk.holds.values()
    assert store.decode_hold(store.encode_hold(hold).replace(b',"takes":[]', b"")) == hold
    stored = store.encode_account(world.account())
    assert store.decode_account(stored.replace(b',"meters":{}', b"")) == world.account()


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ({"scope": {}, "window": "minute", "calls": 1}, "tenant"),
        ({"window": "minute"}, "exactly one"),
        ({"window": "minute", "calls": 1, "tokens": 1}, "exactly one"),
        ({"calls": 1}, "per window"),
        ({"window": "minute", "max_in_flight": 1}, "per window"),
        ({"window": "week", "calls": 1}, "minute"),
        ({"window": "minute", "calls": -1}, "greater than or equal to 0"),
        ({"window": "minute", "calls": 2**53}, "less than or equal"),
        ({"window": "minute", "cents": "lots"}, "not an amount"),
        ({"window": "minute", "calls": 1, "mode": "maybe"}, "enforce"),
        ({"window": "minute", "calls": 1, "scope": {**T, "key_id": "no\nkey"}}, "pattern"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(order: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidControl, match=complaint):
        parse_control(orjson.dumps({"type": "quota.set", "scope": T, "actor": "ann", **order}))


def test_a_quota_names_a_model_with_its_provider() -> None:
    order = {"type": "quota.set", "scope": {**T, "model": "openai:m"}, "window": "day", "calls": 1}
    event = parse_control(orjson.dumps(order))
    state = evolve(ControlState(), "1-1", event)
    (quota,) = state.quotas[TENANT].by_id.values()
    assert quota.named == {"provider": "openai", "model": "m"}


def test_a_failed_call_that_charged_tokens_counts_them() -> None:
    world = world_with(window="hour", tokens=1000)
    allowed = world.allow()
    failed = TaskFailed(
        task=ref(allowed.task),
        decision_id=allowed.reservation.reservation_id,
        reason="stream_cut:client_left",
        provider_attempted=True,
        counts_for_breaker=False,
        spend="certain",
        usage=Usage(input_tokens=7, output_tokens=3, cost=CENT),
    )
    assert [(one.spent, one.reserved) for one in only(world.end(allowed, failed), ReservationEnded).quotas] == [(10, 0)]
