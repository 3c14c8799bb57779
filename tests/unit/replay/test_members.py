"""What a replay reads of an event is what the whole event says."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.evolve import effect_of
from shared.events.decisions import BlockReason, BreakerState, Reservation, TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope, Payload, new
from shared.events.outcomes import AttemptResolved, AttemptStarted, DecisionExpired, TaskFailed, TaskSucceeded, Usage
from shared.events.prices import Prices
from shared.events.registry import EVENTS, UndecodableEvent
from shared.events.tasks import Task, TaskSubmitted, TaskType
from shared.texts.cipher import DataKey, new_secret
from shared.texts.payload import encrypted
from skeldir.replay.members import Allowed, Blocked, Submitted, read, task_of
from skeldir.replay.recording import end_of

TASK = Task(
    task_id=UUID(int=1), request_id="r", task_type=TaskType.ROUTE, provider="openai", model="gpt-4o-mini",
    prompt={"messages": [{"role": "user", "content": "é"}]}, fingerprint="f", max_cost=7, cache_key="k",
)  # fmt: skip
PRICES = Prices(source="control 1-0", rates={"input_mtok": "0.3", "output_mtok": [(0, "1"), (9, "2")]})
MONEY = st.integers(0, 10**13)
USAGE = st.builds(
    Usage,
    input_tokens=st.integers(0, 9),
    output_tokens=st.integers(0, 9),
    cost=MONEY,
    tokens=st.dictionaries(st.sampled_from(["input_tokens", "output_tokens"]), st.integers(0, 9)),
    prices=st.sampled_from([None, PRICES]),
)
ABOUT: dict[str, Any] = {"task": st.just(TASK), "decision_id": st.uuids(), "usage": USAGE}
SPEND = st.sampled_from(["certain", "none", "uncertain"])
ENDS = st.one_of(
    st.builds(TaskSucceeded, **ABOUT, was_cached=st.booleans(), output_text=st.just("é"), cache_watermark=MONEY),
    st.builds(TaskFailed, **ABOUT, reason=st.just("é"), counts_for_breaker=st.booleans(), spend=SPEND),
    st.builds(AttemptResolved, **ABOUT, by=st.just("é")),
    st.builds(DecisionExpired, task=st.just(TASK), decision_id=st.uuids()),
    st.builds(TaskBlocked, task=st.just(TASK), decision_id=st.uuids(), breaker_state=st.sampled_from(BreakerState)),
)
ALLOWS = st.builds(
    TaskAllowed,
    task=st.just(TASK),
    reservation=st.builds(Reservation, amount=MONEY),
    balances=st.just([]),
    quotas=st.just([]),
    shadowed=st.just([]),
    alternatives=st.just([]),
    passed_over=st.none(),
    prices=st.sampled_from([None, PRICES]),
    breaker_state=st.sampled_from(BreakerState),
)


def event(payload: Payload) -> Envelope:
    return new(payload, event_id=UUID(int=2), source="/test", subject="s", now_ms=1_795_000_000_000)


def body(payload: Payload) -> str:
    return event(payload).to_json().decode()


@given(ENDS)
@settings(max_examples=100, deadline=None)
def test_an_end_means_what_the_whole_event_means(end: Any) -> None:
    members = read(body(end))
    assert members is not None and not isinstance(members, Allowed | Submitted)
    assert members.decision_id == end.decision_id
    found = end_of(members)
    assert found.effect == effect_of(end)
    assert found.expired == isinstance(end, DecisionExpired)
    assert found.called == (isinstance(end, TaskSucceeded | TaskFailed) and end.provider_attempted)
    assert found.blocked == (end.reason if isinstance(end, TaskBlocked) else None)
    usage = getattr(end, "usage", None)
    assert found.tokens == (usage.tokens if usage is not None and usage.prices is not None else None)


@given(ALLOWS)
@settings(max_examples=50, deadline=None)
def test_an_allow_is_read_as_it_was_made(allowed: TaskAllowed) -> None:
    members = read(body(allowed))
    assert isinstance(members, Allowed)
    assert task_of(members.task, {}) == allowed.task
    made, was = members.reservation, allowed.reservation
    assert (made.reservation_id, made.amount, made.hour, made.month) == (
        was.reservation_id, was.amount, was.hour, was.month,
    )  # fmt: skip
    assert (members.cache_only, members.probe) == (allowed.cache_only, allowed.probe)
    assert members.control_position == allowed.control_position
    assert (None if members.prices is None else Prices.model_validate(members.prices)) == allowed.prices


def test_what_is_asked_and_what_is_refused() -> None:
    asked = read(body(TaskSubmitted(task=TASK)))
    assert isinstance(asked, Submitted) and task_of(asked.task, {}) == TASK
    refusal = TaskBlocked(
        task=TASK, reason=BlockReason.QUOTA, rule="quota", breaker_state=BreakerState.OPEN, control_position="7-1"
    )
    assert read(body(refusal)) == Blocked(BlockReason.QUOTA, "quota", "7-1", None)
    started = AttemptStarted(task=TASK, decision_id=UUID(int=3), attempt_id=UUID(int=4), attempt_no=1, executor="e")
    assert read(body(started)) is None


def test_a_closed_prompt_is_opened_where_its_key_is_there() -> None:
    key = DataKey(UUID(int=9), new_secret())
    raw = orjson.loads(body(TaskSubmitted(task=TASK)))
    closed = read(orjson.dumps({**raw, "data": encrypted(raw["data"], key)}))
    assert isinstance(closed, Submitted)
    assert task_of(closed.task, {key.id: key}) == TASK
    assert task_of(closed.task, {}).prompt == {"$erased": True}


def test_what_is_written_otherwise_is_read_by_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = orjson.loads(body(DecisionExpired(task=TASK, decision_id=UUID(int=3), spend="uncertain")))
    newer = {**raw, "data": {**raw["data"], "of_a_newer_release": [1]}}
    assert read(orjson.dumps(newer)) == read(orjson.dumps(raw))
    older = {**raw, "dataschema": "urn:skeldir:event:decision.expired:0", "data": {**raw["data"], "spend": "none"}}
    with pytest.raises(UndecodableEvent, match="version 0"):
        read(orjson.dumps(older))
    monkeypatch.setitem(EVENTS._upcasters, ("decision.expired", 0), lambda data: {**data, "spend": "uncertain"})
    assert read(orjson.dumps(older)) == read(orjson.dumps(raw))


@pytest.mark.parametrize(
    "broken", ["{", "[]", '{"type":"task.unheard_of"}', '{"type":"task.allowed","dataschema":"x"}']
)
def test_what_cannot_be_read_is_said(broken: str) -> None:
    with pytest.raises(UndecodableEvent):
        read(broken)
    raw = orjson.loads(body(TaskSubmitted(task=TASK)))
    del raw["data"]["task"]["provider"]
    half = read(orjson.dumps(raw))
    assert isinstance(half, Submitted)
    with pytest.raises(UndecodableEvent, match="provider"):
        task_of(half.task, {})
