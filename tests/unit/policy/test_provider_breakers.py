"""The decision about a model's breaker, from the calls of all tenants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.provider_breakers import desk as desks
from services.policy.provider_breakers.config import BreakerConfig
from services.policy.provider_breakers.desk import MAX_MODELS, Desk, decode, encode, next_due_ms
from services.policy.provider_breakers.reading import call_of
from services.policy.provider_breakers.window import MAX_NAMED, Call
from shared.control_state import ControlState, evolve
from shared.events.control import ProviderBreakerChanged, parse_control
from shared.events.decisions import BreakerState
from shared.events.envelope import derived_id, new
from shared.events.outcomes import AttemptStarted, GoneOnFrom, TaskFailed, TaskSucceeded, Usage
from shared.provider_breakers import Model, ProviderBreaker
from tests.unit.policy.world import ALICE, START_MS, World, ref

MODEL = ("openai", "gpt")
CONFIG = BreakerConfig(min_calls=20, in_a_row=5, slow_ms=1000, probes=2)
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


@dataclass
class Watch:
    """The breakers' desk with a clock that the test moves; changes come back by the control stream, as they do."""

    config: BreakerConfig = CONFIG
    now_ms: int = START_MS
    control: ControlState = field(default_factory=ControlState)
    changes: list[ProviderBreakerChanged] = field(default_factory=list)
    serial: int = 0

    def __post_init__(self) -> None:
        self.desk = Desk(self.config)

    def ended(self, *users: str, failed: bool = False, slow: bool = False, ms: int = 5, model: Model = MODEL) -> None:
        """A call of each of these users has ended, one turn each."""
        for user in users:
            self.now_ms += 10
            self.turn(Call(model, user, self.now_ms - ms, self.now_ms, failed, slow))

    def turn(self, *calls: Call) -> None:
        for change in self.desk.take(calls, self.control.provider_breakers, self.now_ms):
            self.changes.append(change)
            self.order(change.model_dump_json())

    def order(self, data: str) -> None:
        self.serial += 1
        self.control = evolve(self.control, f"{self.now_ms}-{self.serial}", parse_control(data))

    def later(self, ms: int) -> None:
        self.now_ms += ms
        self.turn()

    @property
    def breaker(self) -> ProviderBreaker:
        return self.control.provider_breakers.get(MODEL, ProviderBreaker())

    @property
    def state(self) -> BreakerState:
        return self.breaker.state


def opened() -> Watch:
    watch = Watch()
    watch.ended("a", "b", "a", "b", "a", failed=True)
    assert watch.state is OPEN
    return watch


def half_open() -> Watch:
    watch = opened()
    watch.later(30_000)
    assert watch.state is HALF_OPEN
    return watch


def test_failures_in_a_row_open_it() -> None:
    watch = Watch()
    watch.ended("a", "b", "a", "b", failed=True)
    assert watch.state is CLOSED
    watch.ended("a", failed=True)
    (change,) = watch.changes
    assert (change.state, change.previous, change.version) == (OPEN, CLOSED, 1)
    assert change.reason == "5 failures in a row" and change.figures.in_a_row == 5
    assert watch.breaker.until_ms == watch.now_ms + 30_000


def test_an_answer_in_between_starts_the_row_again_also_a_slow_one() -> None:
    watch = Watch()
    watch.ended("a", "b", "a", "b", failed=True)
    watch.ended("c", slow=True)
    watch.ended("a", "b", "a", "b", failed=True)
    assert watch.state is CLOSED


def test_failures_of_one_user_alone_open_nothing() -> None:
    """However many: those are for the user's own breaker."""
    watch = Watch()
    watch.ended(*["noisy"] * 200, failed=True)
    assert watch.state is CLOSED


def test_one_noisy_user_among_others_opens_nothing() -> None:
    """Others have a failure now and then; without the noisy one it would be one in twenty."""
    watch = Watch()
    watch.ended("x", failed=True)
    for _ in range(19):
        watch.ended("x", "noisy")
        watch.ended("noisy", "noisy", failed=True)
    assert watch.desk.windows[MODEL].window.figures.failed == 39
    assert watch.state is CLOSED


def test_a_share_of_failed_and_slow_calls_opens_it() -> None:
    watch = Watch()
    for _ in range(5):
        watch.ended("a")
        watch.ended("a", failed=True)
        watch.ended("b", slow=True)
        watch.ended("b", failed=True)
    assert watch.state is OPEN
    assert watch.changes[0].reason == "10 failed, 5 slow of 20 calls in 30 s"


def test_fewer_calls_than_the_least_number_open_nothing() -> None:
    watch = Watch(replace(CONFIG, in_a_row=0))
    watch.ended(*"ababababababababab", "a", failed=True)
    assert watch.state is CLOSED
    watch.ended("b", failed=True)
    assert watch.state is OPEN


def test_the_window_slides() -> None:
    watch = Watch(replace(CONFIG, in_a_row=0))
    watch.ended(*"ababababab", failed=True)
    watch.now_ms += 33_000
    watch.ended(*"ababababa", failed=True)
    watch.ended(*"cccccccccc")
    assert watch.desk.windows[MODEL].window.figures.calls == 19 and watch.state is CLOSED


def test_a_call_that_ended_before_the_window_says_nothing() -> None:
    watch = Watch()
    old = watch.now_ms - 30_001
    watch.turn(*(Call(MODEL, user, old - 10, old, True) for user in "ababababab"))
    assert watch.state is CLOSED


def test_more_users_than_are_named_are_certainly_not_one() -> None:
    watch = Watch(replace(CONFIG, in_a_row=0))
    watch.ended(*(f"user-{n}" for n in range(MAX_NAMED + 30)), failed=True)
    assert watch.state is OPEN


def test_after_the_open_time_it_is_half_open_and_probes_close_it() -> None:
    watch = opened()
    watch.later(29_999)
    assert watch.state is OPEN
    watch.later(1)
    assert (watch.state, watch.breaker.probes) == (HALF_OPEN, 2)
    watch.ended("a")
    assert watch.state is HALF_OPEN
    watch.ended("a")
    assert watch.state is CLOSED and watch.changes[-1].reason == "probes succeeded: 2"
    assert [one.version for one in watch.changes] == [1, 2, 3]
    watch.ended("a", "b", "a", "b", failed=True)
    assert watch.state is CLOSED, "it starts afresh"


@pytest.mark.parametrize("slow", [False, True])
def test_a_bad_probe_opens_it_again_for_longer(slow: bool) -> None:
    watch = half_open()
    open_times = []
    for _ in range(6):
        watch.ended("a", failed=not slow, slow=slow)
        assert watch.state is OPEN and watch.breaker.until_ms is not None
        open_times.append((watch.breaker.until_ms - watch.now_ms) // 1000)
        watch.later(open_times[-1] * 1000)
        assert watch.state is HALF_OPEN
    assert open_times == [60, 120, 240, 300, 300, 300]
    watch.ended("a", "a")
    watch.ended("a", "b", "a", "b", "a", failed=True)
    assert watch.breaker.until_ms == watch.now_ms + 30_000, "having closed, it begins again with the short time"


def test_what_went_out_before_says_nothing_of_now() -> None:
    watch = opened()
    watch.ended("a", "b", failed=True)
    watch.ended("a", "b")
    assert watch.state is OPEN
    watch.later(30_000)
    watch.ended("a", failed=True, ms=20_000)
    watch.ended("a", "a", "a", ms=20_000)
    assert watch.state is HALF_OPEN


def test_one_turn_changes_a_breaker_once() -> None:
    watch = Watch()
    watch.now_ms += 100
    watch.turn(*(Call(MODEL, user, START_MS, START_MS + 50, True) for user in "ab" * 20))
    assert [one.version for one in watch.changes] == [1]


def test_an_operator_closes_it_and_what_was_counted_is_void() -> None:
    watch = opened()
    watch.order('{"type": "provider_breaker.reset", "provider": "openai", "model": "gpt", "reason": "mended"}')
    assert watch.state is CLOSED
    watch.ended("a", "b", "a", "b", failed=True)
    watch.order('{"type": "provider_breaker.reset", "provider": "openai", "model": "gpt", "reason": "mended"}')
    watch.ended("a", failed=True)
    assert watch.state is CLOSED


def test_models_do_not_know_of_each_other_and_the_stub_has_no_breaker() -> None:
    watch = opened()
    watch.ended("a", model=("openai", "other"))
    assert set(watch.control.provider_breakers) == {MODEL}
    assert not CONFIG.watches("stub") and replace(CONFIG, stub_too=True).watches("stub")
    assert not replace(CONFIG, enabled=False).watches("openai")


def test_a_breaker_that_is_no_longer_watched_is_left_alone() -> None:
    watch = opened()
    watch.desk.config = replace(CONFIG, enabled=False)
    watch.later(100_000)
    assert watch.state is OPEN
    assert next_due_ms(watch.control.provider_breakers, watch.desk.config) is None


def test_the_number_of_models_is_bounded_and_quiet_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_MODELS >= 100
    monkeypatch.setattr(desks, "MAX_MODELS", 3)
    watch = Watch()
    for name in "pqrst":
        watch.ended("a", model=("openai", name))
    assert [model for _, model in watch.desk.windows] == ["r", "s", "t"]
    watch.ended("a", failed=True, model=("openai", "s"))
    assert watch.desk.forget_quiet({}, watch.now_ms) == []
    watch.now_ms += 60_000
    assert watch.desk.forget_quiet({}, watch.now_ms) == [("openai", "r"), ("openai", "t")], "s has a row of failures"


calls = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["good", "failed", "slow"]), st.integers(0, 20_000)), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(calls, st.integers(0, 60), st.booleans())
def test_every_history_keeps_the_rules_and_a_restart_changes_nothing(
    history: list[tuple[str, str, int]], restart_at: int, strict: bool
) -> None:
    config = replace(CONFIG, min_calls=4, in_a_row=3 if strict else 0)
    watch, twin = Watch(config), Watch(config)
    for at, (user, said, pause_ms) in enumerate(history):
        for one in (watch, twin):
            one.later(pause_ms)
            one.ended(user, failed=said == "failed", slow=said == "slow")
        if at == restart_at:
            watch.desk = Desk(config, {model: decode(encode(found)) for model, found in watch.desk.windows.items()})
    assert watch.changes == twin.changes
    state = CLOSED
    legal = {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED)}
    for number, change in enumerate(watch.changes, 1):
        assert change.version == number and change.previous is state and (state, change.state) in legal
        assert change.reason and (change.until is not None) == (change.state is OPEN)
        state = change.state
    if len({user for user, said, _ in history if said != "good"}) < 2:
        assert not watch.changes


def succeeded(**changed: object) -> TaskSucceeded:
    task = ref(World().task(provider="openai").data.task)  # type: ignore[attr-defined]
    known = {"task": task, "decision_id": task.task_id, "was_cached": False, "provider_attempted": True}
    return TaskSucceeded(**{**known, "output_text": "x", "usage": Usage(latency_ms=1500), **changed})


def failed(**changed: object) -> TaskFailed:
    known = succeeded().model_dump(include={"task", "decision_id", "provider_attempted", "usage"})
    about = {"reason": "provider_error:X", "counts_for_breaker": True, "spend": "none"}
    return TaskFailed(**{**known, **about, **changed})


def read(payload: TaskSucceeded | TaskFailed | AttemptStarted, *, schema: str = "", kind: str = "") -> Call | None:
    event = new(
        payload,
        event_id=derived_id(payload.decision_id, "x"),
        source="/test",
        subject="s",
        now_ms=1,
        tenantid=ALICE.tenant_id,
        userid=ALICE.user_id,
    )
    raw = orjson.loads(event.to_json())
    if schema:
        raw["dataschema"] = schema
    return call_of(
        f"{START_MS}-3".encode(), {b"type": (kind or event.type).encode(), b"data": orjson.dumps(raw)}, CONFIG
    )


def test_what_an_outcome_tells_of_the_provider() -> None:
    model = ("openai", "model")
    user = str(ALICE.user_id)
    assert read(succeeded()) == Call(model, user, START_MS - 1500, START_MS, failed=False, slow=True)
    assert read(succeeded(usage=Usage(latency_ms=1000))) == Call(model, user, START_MS - 1000, START_MS, failed=False)
    assert read(failed()) == Call(model, user, START_MS - 1500, START_MS, failed=True)
    streamed = read(succeeded(response_metadata={"chunks": 7}))
    assert streamed is not None and not streamed.slow, "how long a stream takes is a matter of its length"


def test_what_says_nothing_of_the_provider() -> None:
    task = succeeded().task
    assert read(succeeded(was_cached=True, provider_attempted=False)) is None
    assert read(failed(counts_for_breaker=False)) is None, "a caller's mistake"
    assert read(succeeded(task=task.model_copy(update={"provider": "stub"}))) is None
    assert read(succeeded(task=task.model_copy(update={"model": "m" * 201}))) is None
    assert read(succeeded(), schema="urn:skeldir:event:task.succeeded:2") is None, "an unknown version is not guessed"
    assert read(succeeded(), kind="attempt.started") is None
    for data in (b"\xff", b"[]", b"null", b'{"data": 1}', b'{"data": {"task": {}}}'):
        assert call_of(b"1-1", {b"type": b"task.failed", b"data": data}, CONFIG) is None
    assert call_of(b"1-1", {b"type": b"task.failed"}, CONFIG) is None


def test_an_attempt_tells_of_the_other_model_from_which_its_task_has_gone_on() -> None:
    end = failed()
    known = {"task": end.task, "decision_id": end.decision_id, "attempt_id": end.decision_id, "executor": "e"}
    left = GoneOnFrom(
        provider="openai", model="left", reason="x", provider_attempted=True, counts_for_breaker=True, latency_ms=1500
    )
    said = [
        read(AttemptStarted(**known, attempt_no=2, after=after))
        for after in (
            left,
            left.model_copy(update={"counts_for_breaker": False}),
            left.model_copy(update={"provider_attempted": False}),
            None,
        )
    ]
    user = str(ALICE.user_id)
    assert said[0] == Call(("openai", "left"), user, START_MS - 1500, START_MS, failed=True)
    assert said[1:] == [None, None, None]
