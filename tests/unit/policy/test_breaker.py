"""The breaker of one user: opens at the threshold, probes, heals, and counts what is still in flight."""

from __future__ import annotations

from dataclasses import replace

from shared.events.decisions import BreakerState
from tests.unit.policy.world import ALICE, BOB, CONFIG, BreakerChanged, TaskAllowed, World, blocked, only, reason


def opened(world: World) -> World:
    """Three failures in a row."""
    for _ in range(3):
        world.fail(world.allow())
    return world


def test_three_failures_open_it_for_that_user_alone() -> None:
    world = opened(World())
    assert reason(world.submit(ALICE)) == "breaker_open"
    assert isinstance(world.submit(BOB), TaskAllowed)


def test_a_success_in_between_starts_the_count_again() -> None:
    world = World()
    for _ in range(2):
        world.fail(world.allow())
    world.succeed(world.allow())
    world.fail(world.allow())
    assert isinstance(world.submit(), TaskAllowed)


def test_every_failure_and_every_change_of_state_is_an_event() -> None:
    world = opened(World())
    changes = [event.data for event in world.log if isinstance(event.data, BreakerChanged)]
    assert [(one.state, one.failure_count) for one in changes] == [("closed", 1), ("closed", 2), ("open", 3)]
    assert changes[-1].reason == "provider_error:ServerError"


def test_a_failure_that_is_delivered_again_counts_once() -> None:
    """Also where its reservation is still held, because nobody knows what it cost."""
    world = World()
    allowed = world.allow()
    assert world.fail(allowed, "uncertain") != []
    version = world.account().version
    assert world.fail(allowed, "uncertain") == []
    assert (world.account().breaker.failures, world.account().version) == (1, version)


def test_the_callers_mistakes_do_not_open_it() -> None:
    world = World()
    for _ in range(10):
        world.fail(world.allow(), counts=False)
    assert isinstance(world.submit(), TaskAllowed)


def test_twelve_failing_calls_at_once_send_three() -> None:
    """In the replaced system all twelve went out under a threshold of 3."""
    world = World()
    verdicts = [world.submit() for _ in range(12)]
    out = [one for one in verdicts if isinstance(one, TaskAllowed)]
    assert len(out) == 3 and verdicts[3:] == [None] * 9
    for allowed in out:
        world.fail(allowed)
    assert blocked(world) == ["breaker_open"] * 9
    assert world.desk.parked_count == 0


def test_successes_make_room() -> None:
    world = World()
    out = [world.submit() for _ in range(40)]
    seen = 0
    while live := [event.data for event in world.log if isinstance(event.data, TaskAllowed)][seen:]:
        for allowed in live:
            world.succeed(allowed)
        seen += len(live)
    assert (seen, out.count(None)) == (40, 37)
    assert world.account().breaker.proven == 40


def test_a_failure_leaves_room_for_what_the_threshold_still_allows() -> None:
    world = World()
    for _ in range(20):
        world.succeed(world.allow())
    world.fail(world.allow())
    assert [isinstance(world.submit(), TaskAllowed) for _ in range(3)] == [True, True, False]


def test_after_the_open_time_exactly_the_configured_probes_go_through() -> None:
    """The replaced system let 10 of 10 through."""
    for probes in (1, 3):
        world = opened(World(config=replace(CONFIG, half_open_probes=probes)))
        world.now_ms += CONFIG.open_ms
        verdicts = [world.submit() for _ in range(10)]
        allowed = [one for one in verdicts if isinstance(one, TaskAllowed)]
        assert len(allowed) == probes and all(one.probe for one in allowed)
        assert {reason(one) for one in verdicts[probes:]} == {"breaker_open"}


def test_a_probes_success_closes_it() -> None:
    world = opened(World())
    world.now_ms += CONFIG.open_ms
    change = only(world.succeed(world.allow()), BreakerChanged)
    assert (change.previous, change.state, change.failure_count) == (BreakerState.HALF_OPEN, BreakerState.CLOSED, 0)
    assert isinstance(world.submit(), TaskAllowed)


def test_a_probes_failure_opens_it_again_for_the_whole_time() -> None:
    world = opened(World())
    world.now_ms += CONFIG.open_ms
    world.fail(world.allow())
    world.now_ms += CONFIG.open_ms - 1
    assert reason(world.submit()) == "breaker_open"
    world.now_ms += 1
    assert isinstance(world.submit(), TaskAllowed)


def test_a_probe_that_tells_nothing_gives_its_place_back() -> None:
    world = opened(World())
    world.now_ms += CONFIG.open_ms
    world.succeed(world.allow(), cached=True)
    assert isinstance(world.submit(), TaskAllowed)


def test_a_late_answer_of_a_call_from_before_is_no_probe() -> None:
    world = World()
    for _ in range(5):
        world.succeed(world.allow())
    slow, *failing = [world.allow() for _ in range(4)]
    for allowed in failing:
        world.fail(allowed)
    assert world.account().breaker.state is BreakerState.OPEN
    world.now_ms += CONFIG.open_ms
    probe = world.allow()
    world.succeed(slow)
    assert world.account().breaker.state is BreakerState.HALF_OPEN
    world.succeed(probe)
    assert world.account().breaker.state is BreakerState.CLOSED


def test_the_last_call_before_the_threshold_is_waited_for() -> None:
    world = World()
    slow = world.allow()
    world.fail(world.allow())
    world.fail(world.allow())
    assert world.submit() is None, "if the slow one fails too, the breaker is open"
    world.succeed(slow)
    assert world.desk.parked_count == 0


def test_while_open_only_the_cache_may_answer() -> None:
    world = opened(World())
    allowed = world.allow(cache_key="k")
    assert allowed.cache_only and allowed.reservation.amount == 0
    world.succeed(allowed, cached=True)
    assert reason(world.submit()) == "breaker_open"
