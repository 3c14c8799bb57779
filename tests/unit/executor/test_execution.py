"""What may be done with a delivered decision."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.delivery import Delivery
from services.executor.execution import (
    Expired,
    Go,
    Lost,
    Over,
    Record,
    Stop,
    Untouched,
    before,
    is_for_another,
    permission,
    wait_before_retry,
    without_answer,
)
from services.executor.providers.protocol import ProviderFailure, Spend
from shared.control_state import ControlState, evolve
from shared.events.control import parse_control
from shared.events.decisions import BlockReason
from tests.unit.executor.given import NOW_MS, TENANT, USER, delivery

USERS_SCOPE = {"tenant_id": str(TENANT), "user_id": str(USER)}


def ordered(**event: object) -> ControlState:
    return evolve(ControlState(), f"{NOW_MS - 1}-0", parse_control(orjson.dumps({"reason": "because", **event})))


def may(one: Delivery, control: ControlState | None = None, *, stale: bool = False, now_ms: int = NOW_MS) -> object:
    return permission(one, control or ControlState(), stale=stale, now_ms=now_ms)


def test_an_allowed_task_may_go() -> None:
    assert may(delivery()) == Go()


def test_a_permission_ends_at_its_time() -> None:
    one = delivery(expires_at_ms=NOW_MS + 5)
    assert (may(one, now_ms=NOW_MS + 4), may(one, now_ms=NOW_MS + 5)) == (Go(), Expired())


def test_who_does_not_know_the_orders_stops() -> None:
    stopped = may(delivery(), stale=True)
    assert isinstance(stopped, Stop) and stopped.reason == BlockReason.CONTROL_STALE


@pytest.mark.parametrize(
    ("scope", "stops"),
    [
        ({}, True),
        ({"tenant_id": str(TENANT)}, True),
        (USERS_SCOPE, True),
        ({"provider": "stub"}, True),
        ({"model": "stub:model"}, True),
        ({"task_type": "route"}, True),
        ({"task_type": "explanation"}, False),
        ({"provider": "openai"}, False),
        ({"tenant_id": str(USER)}, False),
    ],
)
def test_a_kill_switch_stops_its_scope(scope: dict[str, str], stops: bool) -> None:
    said = may(delivery(), ordered(type="kill_switch.engaged", scope=scope))
    assert isinstance(said, Stop) is stops
    if isinstance(said, Stop):
        assert said.reason == BlockReason.KILL_SWITCH and said.explanation["reason"] == "because"


def test_a_manual_shutoff_stops_with_its_own_reason_until_its_end() -> None:
    control = ordered(type="shutoff.engaged", scope=USERS_SCOPE, minutes=1)
    stopped = may(delivery(), control)
    assert isinstance(stopped, Stop) and stopped.reason == "because"
    assert may(delivery(expires_at_ms=NOW_MS + 100_000), control, now_ms=NOW_MS + 59_999) == Go()


def test_what_others_left_behind() -> None:
    one, safe = delivery(), delivery(retry_safe=True)

    def record(of: Delivery, state: str, lost: int = 0) -> Record:
        return Record(str(of.decision_id), state, "somebody", lost)

    assert before(one, record(one, "allowed"), 3) == Untouched()
    assert before(one, record(one, "attempting"), 3) == Lost("somebody", again=False)
    assert before(safe, record(safe, "attempting"), 3) == Lost("somebody", again=True)
    assert before(safe, record(safe, "attempting", lost=2), 3) == Lost("somebody", again=False)
    for over in (record(one, "ended"), record(one, "expired"), Record(), Record("another", "attempting", "x")):
        assert before(one, over, 3) == Over()


def test_without_an_answer_in_the_cache_an_open_breaker_stops() -> None:
    assert without_answer(delivery(), ControlState()) == Go()
    stopped = without_answer(delivery(cache_only=True), ControlState())
    assert isinstance(stopped, Stop) and stopped.reason == BlockReason.BREAKER_OPEN


@given(
    retry=st.booleans(),
    spend=st.sampled_from(["none", "certain", "uncertain"]),
    asked_s=st.none() | st.floats(0, 100),
    number=st.integers(1, 10),
    most=st.integers(1, 10),
    left_s=st.floats(-1, 100),
)
def test_a_retry_only_where_nothing_was_spent_and_the_wait_fits(
    retry: bool, spend: Spend, asked_s: float | None, number: int, most: int, left_s: float
) -> None:
    failure = ProviderFailure("X", retry=retry, spend=spend, retry_after_s=asked_s)
    wait_s = wait_before_retry(failure, number, most, left_s)
    if wait_s is not None:
        assert retry and spend == "none" and number < most and 0 <= wait_s < left_s
        assert asked_s is None or wait_s >= asked_s
    elif retry and spend == "none" and number < most:
        assert left_s <= (asked_s if asked_s is not None else 100)


@pytest.mark.parametrize(
    ("failure", "is_for_it"),
    [
        (ProviderFailure("X", status=429, retry=True), True),
        (ProviderFailure("X", status=429, retry=True, retry_after_s=0.0), False),  # another key is awake
        (ProviderFailure("X", status=500), True),
        (ProviderFailure("X", status=503, retry=True), True),
        (ProviderFailure("X", status=503, spend="uncertain"), False),
        (ProviderFailure("X", status=400, counts_for_breaker=False), False),
        (ProviderFailure("X", status=401, counts_for_breaker=False, retry=True, retry_after_s=0.0), False),
        (ProviderFailure("X", status=404), False),
        (ProviderFailure("X", status=408, spend="uncertain"), False),
        (ProviderFailure("APIConnectionError", retry=True, counts_for_breaker=False), True),
        (ProviderFailure("X", spend="uncertain"), False),
        (ProviderFailure("X", spend="certain"), False),
        (ProviderFailure("UnknownProvider", counts_for_breaker=False, asked=False), True),
        (ProviderFailure("MissingCredentials", counts_for_breaker=False, asked=False), True),
        (ProviderFailure("NotSupported", counts_for_breaker=False, asked=False), False),
        (ProviderFailure("InvalidPrompt", counts_for_breaker=False, asked=False), False),
    ],
    ids=lambda one: f"{one.kind} {one.status} {one.spend}" if isinstance(one, ProviderFailure) else "",
)
def test_another_model_is_asked_only_where_nothing_was_spent_and_the_request_was_not_refused(
    failure: ProviderFailure, is_for_it: bool
) -> None:
    assert is_for_another(failure) is is_for_it
