"""The history checker: what policy really writes has no finding; of each thing that is doctored one check complains."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid5

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.ledger.history.checker import HistoryChecker
from services.ledger.history.entry import Entry, Finding
from services.ledger.history.order import causal
from services.ledger.history.orders import Orders
from shared.control_state import order_of
from shared.events.control import parse_control
from shared.events.decisions import ReservationEnded, TaskAllowed
from shared.events.envelope import NAMESPACE
from shared.events.outcomes import AttemptStarted, DecisionExpired, TaskFailed, TaskSucceeded, Usage
from shared.events.tasks import TaskSubmitted
from tests.unit.ledger.history import CENT, NAMES, TENANT_SCOPE, History, Op, play
from tests.unit.policy.world import CONFIG, ref

STOP_BOUND_MS = 1000
QUOTA = ("order", 0, 12)
"""A quota of the tenant's: cents a minute."""
LAST_OF_AN_OLD_WINDOW: list[Op] = [
    ("submit", 0, 0),
    QUOTA,
    ("submit", 0, 0),
    ("wait", 0, 0),
    ("expire", 0, 0),
    ("succeed", 0, 1),
]
SET_AGAIN: list[Op] = [QUOTA, ("submit", 0, 0), QUOTA, ("submit", 0, 0)]
ops = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=40)


def entries_of(history: History, shifts: dict[str, int] | None = None) -> list[Entry]:
    """As the books have them, sorted by place: entries of one millisecond have no order across streams. `shifts`:
    by how many milliseconds the server's clock was ahead when it last wrote to a stream."""
    found = []
    for number, (stream, entry_id, event) in enumerate(history.entries):
        stage: Any = stream.rpartition(":")[2]
        found.append(Entry(stage, (order_of(entry_id)[0] + (shifts or {}).get(stage, 0), number), event))
    return sorted(found, key=lambda entry: (entry.ms, entry.stream, entry.place))


def orders_of(history: History) -> Orders:
    return Orders((entry_id, parse_control(data)) for entry_id, data in history.orders)


def check(entries: Sequence[Entry], orders: Orders | None = None, **how: Any) -> list[Finding]:
    """What is found, in a history of which everything should have ended by now."""
    before_ms = how.pop("before_ms", None)
    return list(HistoryChecker(orders or Orders(), stop_bound_ms=STOP_BOUND_MS, **how).check(entries, before_ms))


def call(history: History, allowed: TaskAllowed, cost: int) -> None:
    """The provider is asked, and answers."""
    history.start(allowed)
    started = history.entries[-1][2].data
    assert isinstance(started, AttemptStarted)
    history.now_ms += 100
    success = TaskSucceeded(
        task=ref(allowed.task),
        decision_id=allowed.reservation.reservation_id,
        attempt_id=started.attempt_id,
        was_cached=False,
        provider_attempted=True,
        output_text="",
        usage=Usage(cost=cost),
    )
    history.end(allowed, success)


def a_good_day() -> History:
    """A success, an overrun, a plain failure, a lost attempt that is retried, one that is reconciled, and a block."""
    history = History()
    history.order(type="limits.set", scope=TENANT_SCOPE, monthly_cents=1000, actor="ann")
    for cost in (CENT // 2, 3 * CENT):
        history.now_ms += 5000
        call(history, history.allow(), cost)
    failed = history.allow()
    history.start(failed)
    history.fail(failed)
    lost = history.allow(retry_safe=True)
    history.start(lost)
    history.now_ms += 3000
    again = history.end(lost, DecisionExpired(task=lost.task, decision_id=decision_of(lost), spend="uncertain"))
    call(history, next(one for one in again if isinstance(one, TaskAllowed)), CENT)
    uncertain = history.allow()
    history.start(uncertain)
    history.fail(uncertain, "uncertain")
    history.now_ms += 3_700_000
    history.resolve(uncertain, CENT // 4)
    history.resolve(lost, 0)
    unused = history.allow()
    again = history.expire(unused)
    call(history, next(one for one in again if isinstance(one, TaskAllowed)), CENT)
    history.order(type="kill_switch.engaged", scope={}, reason="drill", actor="ann")
    history.now_ms += 5000
    assert history.submit() is not None
    history.order(type="kill_switch.released", scope={}, reason="over", actor="ann")
    history.now_ms += 10
    call(history, history.allow(), CENT)
    return history


def decision_of(allowed: TaskAllowed) -> UUID:
    return allowed.reservation.reservation_id


def test_a_switch_stops_the_model_that_is_called_not_the_one_that_was_asked_for() -> None:
    history = History()
    history.order(type="limits.set", scope=TENANT_SCOPE, monthly_cents=0, actor="ann")
    rule = {"model": "model", "to": "stub:small", "percent": 1, "actor": "ann"}
    history.order(type="downgrade.set", scope=TENANT_SCOPE, **rule)
    for stopped, findings in (("stub:model", []), ("stub:small", ["history_5_stops"])):
        late = history.allow(max_cost=0)
        history.order(type="kill_switch.engaged", scope={"model": stopped}, reason="drill", actor="ann")
        history.now_ms += 5000
        call(history, late, 0)
        assert [one.check for one in check(entries_of(history), orders_of(history))] == findings


def moved_to(history: History, allowed: TaskAllowed, model: str, *, after_ms: int = 0) -> list[str]:
    """The choice failed, and `model` answered; what is found."""
    history.start(allowed)
    history.now_ms += after_ms
    history.start(allowed, 2, model=model, requested_model="stub:model")
    end = TaskSucceeded(
        task=ref(allowed.task).model_copy(update={"model": model, "requested_model": "stub:model"}),
        decision_id=decision_of(allowed),
        attempt_id=next(
            one.data.attempt_id for *_, one in reversed(history.entries) if isinstance(one.data, AttemptStarted)
        ),
        was_cached=False,
        provider_attempted=True,
        output_text="",
        usage=Usage(cost=CENT // 2),
    )
    history.end(allowed, end)
    return [one.check for one in check(entries_of(history), orders_of(history))]


def with_fallback() -> History:
    return History(config=replace(CONFIG, fallbacks={"stub:model": ["stub:other"]}))


@pytest.mark.parametrize(
    ("model", "findings"), [("other", []), ("third", ["history_3_one_answer"])], ids=["named", "not named"]
)
def test_only_models_are_called_that_the_decision_names(model: str, findings: list[str]) -> None:
    history = with_fallback()
    assert moved_to(history, history.allow(), model) == findings


def test_an_alternative_that_may_cost_more_than_is_reserved_is_found() -> None:
    history = with_fallback()
    allowed = history.allow()
    (dearer,) = (one.model_copy(update={"amount": allowed.reservation.amount + 1}) for one in allowed.alternatives)
    allowed.alternatives[:] = [dearer]
    assert moved_to(history, allowed, "other") == ["history_3_one_answer"]


@pytest.mark.parametrize(("stopped", "findings"), [("stub:model", []), ("stub:other", ["history_5_stops"])])
def test_a_switch_stops_the_alternative_that_is_called(stopped: str, findings: list[str]) -> None:
    history = with_fallback()
    allowed = history.allow()
    history.order(type="kill_switch.engaged", scope={"model": stopped}, reason="drill", actor="ann")
    history.now_ms += 100
    assert moved_to(history, allowed, "other", after_ms=5000) == findings


def test_a_good_day_has_no_finding() -> None:
    history = a_good_day()
    assert check(entries_of(history), orders_of(history)) == []


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ops, st.tuples(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000)))
@example(LAST_OF_AN_OLD_WINDOW, (0, 0, 0))
def test_what_policy_writes_has_no_finding(history_ops: list[Op], shifts: tuple[int, int, int]) -> None:
    """Nor where the server's clock went back by up to two seconds, and one stream's ids run ahead of another's."""
    history = play(history_ops)
    ahead = dict(zip(("tasks", "decisions", "outcomes"), shifts, strict=True))
    assert check(entries_of(history, ahead), orders_of(history), before_ms=0) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ops, st.randoms(use_true_random=False))
@example(SET_AGAIN, random.Random(0))
@example(SET_AGAIN, random.Random(1))
def test_a_history_that_begins_in_the_middle_has_no_finding(history_ops: list[Op], chance: random.Random) -> None:
    history = play(history_ops)
    entries = entries_of(history)
    first_ms = chance.choice(entries).ms if entries else 0
    rest = [entry for entry in entries if entry.ms >= first_ms]
    orders = Orders((one, parse_control(data)) for one, data in history.orders if order_of(one)[0] >= first_ms)
    assert check(rest, orders, whole=False, before_ms=0) == []


def test_an_effect_does_not_come_before_its_cause() -> None:
    entries = entries_of(a_good_day(), {"tasks": 900, "decisions": 300, "outcomes": 0})
    places = {entry.event.id: at for at, entry in enumerate(causal(entries))}
    assert len(places) == len(entries)
    for entry in entries:
        cause = places.get(entry.event.causationid) if entry.event.causationid is not None else None
        assert cause is None or cause < places[entry.event.id]


Doctor = Callable[[list[Entry]], list[Entry]]


def changed(entry: Entry, **fields: Any) -> Entry:
    """The entry with another payload."""
    data = entry.event.data.model_copy(update=fields)
    return replace(entry, event=entry.event.model_copy(update={"data": data}))


def edit(kind: type[Any], edit_one: Callable[[Entry], dict[str, Any]], at: int = 0) -> Doctor:
    """Change the payload of one event of this kind."""

    def doctor(entries: list[Entry]) -> list[Entry]:
        wanted = [entry for entry in entries if isinstance(entry.event.data, kind)][at]
        return [changed(entry, **edit_one(entry)) if entry is wanted else entry for entry in entries]

    return doctor


def again(kind: type[Any], at: int = 0, **fields: Any) -> Doctor:
    """Add an event of this kind once more, under another id, right behind the first."""

    def doctor(entries: list[Entry]) -> list[Entry]:
        wanted = [entry for entry in entries if isinstance(entry.event.data, kind)][at]
        copy = changed(wanted, **fields)
        copy = replace(copy, event=copy.event.model_copy(update={"id": uuid5(NAMESPACE, "again")}))
        place = entries.index(wanted) + 1
        return [*entries[:place], copy, *entries[place:]]

    return doctor


def a_balance_is_off(entry: Entry) -> dict[str, Any]:
    first, *others = entry.event.data.balances  # type: ignore[attr-defined]
    return {"balances": [first.model_copy(update={"spent": first.spent + 1}), *others]}


def a_version_is_left_out(entry: Entry) -> dict[str, Any]:
    balances = entry.event.data.balances  # type: ignore[attr-defined]
    return {"balances": [one.model_copy(update={"version": one.version + 1}) for one in balances]}


def the_cap_is(cap: int) -> Callable[[Entry], dict[str, Any]]:
    def edit_one(entry: Entry) -> dict[str, Any]:
        balances = entry.event.data.balances  # type: ignore[attr-defined]
        return {"balances": [one.model_copy(update={"cap": cap} if one.cap is not None else {}) for one in balances]}

    return edit_one


def another_body(entry: Entry) -> dict[str, Any]:
    return {"task": entry.event.data.task.model_copy(update={"fingerprint": "e" * 64})}  # type: ignore[attr-defined]


def another_request(entry: Entry) -> dict[str, Any]:
    return {"task": entry.event.data.task.model_copy(update={"request_id": "other"})}  # type: ignore[attr-defined]


def another_model(entry: Entry) -> dict[str, Any]:
    return {"task": entry.event.data.task.model_copy(update={"model": "other"})}  # type: ignore[attr-defined]


def unsafe(entry: Entry) -> dict[str, Any]:
    return {"task": entry.event.data.task.model_copy(update={"retry_safe": False})}  # type: ignore[attr-defined]


def an_attempt_on_what_was_given_back(entries: list[Entry]) -> list[Entry]:
    """The lost decision is begun once more, after it was given back."""
    expired = next(entry for entry in entries if isinstance(entry.event.data, DecisionExpired))
    attempt = next(entry for entry in entries if isinstance(entry.event.data, AttemptStarted))
    decision_id = expired.event.data.decision_id  # type: ignore[attr-defined]
    data = attempt.event.data.model_copy(
        update={"decision_id": decision_id, "task": ref(expired.event.data.task), "attempt_no": 2}  # type: ignore[attr-defined]
    )
    late = expired.event.model_copy(update={"id": uuid5(NAMESPACE, "late"), "type": "attempt.started", "data": data})
    place = entries.index(expired) + 1
    return [*entries[:place], replace(expired, event=late), *entries[place:]]


def the_last_end_is_missing(entries: list[Entry]) -> list[Entry]:
    """With all that came of it."""
    last = max(entries, key=lambda entry: entry.place).event.subject
    return [e for e in entries if e.event.subject != last or isinstance(e.event.data, TaskSubmitted)]


DOCTORED: dict[str, tuple[str, Doctor]] = {
    "an attempt names an allow that is not in the log": (
        "history_1_allowed_before",
        edit(AttemptStarted, lambda _: {"decision_id": uuid5(NAMESPACE, "none")}),
    ),
    "an allow had expired when it was used": (
        "history_1_allowed_before",
        edit(TaskAllowed, lambda entry: {"expires_at_ms": entry.ms - 5000}),
    ),
    "an allow is of a cached answer only": (
        "history_1_allowed_before",
        edit(TaskAllowed, lambda _: {"cache_only": True}),
    ),
    "a decision is begun after it was given back": ("history_1_allowed_before", an_attempt_on_what_was_given_back),
    "a task has two ends": ("history_2_one_end", again(TaskSucceeded)),
    "a task has a second end of another kind": ("history_2_one_end", again(TaskFailed, spend="none")),
    "a task has no end": ("history_2_one_end", the_last_end_is_missing),
    "a request has two bodies": ("history_3_one_answer", edit(TaskAllowed, another_body)),
    "a task is decided for another model than was asked": (
        "history_3_one_answer",
        edit(TaskAllowed, another_model),
    ),
    "a task's id is not that of its request": ("history_3_one_answer", edit(TaskSubmitted, another_request)),
    "an attempt is made twice": ("history_3_one_answer", again(AttemptStarted)),
    "an attempt is followed by another executor's": (
        "history_3_one_answer",
        again(AttemptStarted, attempt_no=2, executor="executor-2"),
    ),
    "more is given back than was reserved": (
        "history_4_caps",
        edit(ReservationEnded, lambda _: {"reserved": 2 * CENT}),
    ),
    "a reservation ends twice": ("history_4_caps", again(ReservationEnded)),
    "an allow passes the cap": ("history_4_caps", edit(TaskAllowed, the_cap_is(CENT // 2))),
    "an allow has another cap than the operator's": ("history_4_caps", edit(TaskAllowed, the_cap_is(999 * CENT))),
    "a balance is off by a nanocent": ("history_4_caps", edit(ReservationEnded, a_balance_is_off)),
    "a version is left out": ("history_4_caps", edit(ReservationEnded, a_version_is_left_out)),
    "a settlement is not what its end says": (
        "history_4_caps",
        edit(TaskSucceeded, lambda _: {"usage": Usage(cost=7)}),
    ),
    "an uncertain end releases its reservation": (
        "history_6_uncertain",
        edit(TaskFailed, lambda _: {"spend": "uncertain"}),
    ),
    "a lost attempt is retried though that is not safe": ("history_6_uncertain", edit(TaskSubmitted, unsafe, at=3)),
}


@pytest.mark.parametrize("what", DOCTORED)
def test_what_is_doctored_is_found_by_one_check(what: str) -> None:
    wanted, doctor = DOCTORED[what]
    history = a_good_day()
    found = check(doctor(entries_of(history)), orders_of(history))
    assert {one.check for one in found} == {wanted}, found
    assert all(one.expected and one.found and one.entries for one in found)


def a_day_with_quotas() -> History:
    """One of each unit; a call that is counted, one that is uncertain, one that only a shadow would have blocked."""
    history = History()
    for quota in (
        {"window": "day", "calls": 3},
        {"window": "month", "tokens": 900},
        {"window": "minute", "cents": 2},
        {"max_in_flight": 2},
        {"window": "hour", "calls": 1, "mode": "shadow"},
    ):
        history.order(type="quota.set", scope=TENANT_SCOPE, actor="ann", **quota)
    call(history, history.allow(), CENT // 2)
    uncertain = history.allow()
    history.start(uncertain)
    history.fail(uncertain, "uncertain")
    history.now_ms += 60_000
    history.resolve(uncertain, CENT // 4)
    call(history, history.allow(), 0)
    return history


def of_quota(at: int, **fields: Any) -> Callable[[Entry], dict[str, Any]]:
    """One quota's balance says something else."""

    def edit_one(entry: Entry) -> dict[str, Any]:
        quotas = list(entry.event.data.quotas)  # type: ignore[attr-defined]
        quotas[at] = quotas[at].model_copy(update=fields)
        return {"quotas": quotas}

    return edit_one


DOCTORED_QUOTAS: dict[str, Doctor] = {
    "a quota is not asked": edit(TaskAllowed, lambda entry: {"quotas": entry.event.data.quotas[1:]}),  # type: ignore[attr-defined]
    "a quota is passed": edit(TaskAllowed, of_quota(0, reserved=4)),
    "a quota has another limit than the operator's": edit(TaskAllowed, of_quota(0, limit=4)),
    "a quota is only a shadow": edit(TaskAllowed, of_quota(0, shadow=True)),
    "less is reserved than the worst case": edit(TaskAllowed, of_quota(2, amount=1)),
    "an earlier window is opened again": edit(TaskAllowed, of_quota(2, window_start="2026-01-01T00:00"), at=2),
    "what fits is shadowed": edit(TaskAllowed, lambda entry: {"shadowed": entry.event.data.quotas[:1]}),  # type: ignore[attr-defined]
    "a call is not counted": edit(ReservationEnded, of_quota(0, spent=0)),
    "money is not counted": edit(ReservationEnded, of_quota(2, spent=0)),
    "tokens that nobody stated count as none": edit(ReservationEnded, of_quota(1, spent=0)),
    "what is uncertain is given back": edit(ReservationEnded, of_quota(2, reserved=0), at=1),
    "a task stays in flight": edit(ReservationEnded, of_quota(3, reserved=1)),
    "a settlement leaves a quota out": edit(ReservationEnded, lambda _: {"quotas": []}),
}


@pytest.mark.parametrize("what", DOCTORED_QUOTAS)
def test_a_quota_that_is_doctored_is_found(what: str) -> None:
    history = a_day_with_quotas()
    assert check(entries_of(history), orders_of(history)) == []
    found = check(DOCTORED_QUOTAS[what](entries_of(history)), orders_of(history))
    assert {one.check for one in found} == {"history_4_quotas"}, found


def test_a_call_after_the_kill_switch_is_found() -> None:
    history = a_good_day()
    entries = entries_of(history)
    first_ms = next(entry.ms for entry in entries if isinstance(entry.event.data, AttemptStarted))

    def found(engaged_ms: int, released_ms: int | None = None) -> set[str]:
        orders = [(one, parse_control(data)) for one, data in history.orders]
        orders.append((f"{engaged_ms}-7", ENGAGED))
        if released_ms is not None:
            orders.append((f"{released_ms}-7", RELEASED))
        return {one.check for one in check(entries, Orders(orders))}

    late_ms = first_ms - STOP_BOUND_MS
    assert found(late_ms, first_ms + 200) == {"history_5_stops"}
    assert found(late_ms + 1, first_ms + 200) == set(), "within the bound"
    assert found(late_ms, first_ms - 1) == set(), "released before"
    assert found(late_ms, first_ms + 50) == set(), "released while it ran: perhaps before the call"
    # The last check before the call may have stopped it: then its end names no attempt, and nothing was called.
    entries = edit(TaskSucceeded, lambda _: {"attempt_id": None})(entries)
    assert found(late_ms, first_ms + 200) == set()


ENGAGED, RELEASED = (
    parse_control(orjson.dumps({"type": f"kill_switch.{what}", "scope": TENANT_SCOPE, "reason": "drill"}))
    for what in ("engaged", "released")
)


def test_what_is_not_in_the_books_yet_is_no_finding() -> None:
    """The ledger takes the streams in side by side: what was done may be in before what allowed it."""
    history = a_good_day()
    entries = entries_of(history)
    last_ms = sorted(entry.ms for entry in entries if entry.stream == "decisions")[-3]
    behind = [entry for entry in entries if entry.stream != "decisions" or entry.ms < last_ms]
    assert check(behind, orders_of(history), before_ms=0) != []
    assert check(behind, orders_of(history), before_ms=0, taken_in={"decisions": last_ms - 1}) == []


def test_memory_is_bounded_by_what_is_live() -> None:
    history = History()
    checker = HistoryChecker(Orders())
    for _ in range(50):
        history.now_ms += 1
        call(history, history.allow(), CENT // 100)
    for entry in causal(entries_of(history)):
        assert checker.take(entry) == []
        assert len(checker.live.tasks) <= 1 and len(checker.live.decisions) <= 1
