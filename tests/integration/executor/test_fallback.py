"""Another model is asked where a call certainly cost nothing and its provider could not answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.executor.providers import Answer, Call, Chunk, Hear, Provider, ProviderFailure
from shared.events.decisions import Alternative, BlockReason, TaskBlocked
from shared.events.outcomes import AttemptStarted, DecisionExpired, TaskFailed, TaskSucceeded
from shared.events.prices import Prices
from shared.models import CompatibleProvider
from shared.money import from_cents
from tests.integration.executor.conftest import Bench, Gate, OnlyCalls, until
from tests.mock_provider import MockProvider, Reply

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
MODEL: dict[str, Any] = {"provider": "openai", "model": "gpt-4o-mini"}
ASKED = "openai:gpt-4o-mini"


def other(named: str, amount: int = 500, prices: Prices | None = None, longest: int | None = None) -> Alternative:
    provider, _, model = named.partition(":")
    return Alternative(provider=provider, model=model, amount=amount, prices=prices, max_output_tokens=longest)


class Servers:
    """A first choice, and a second one at another address."""

    def __init__(self, first: MockProvider, second: MockProvider) -> None:
        self.first, self.second = first, second
        self.known: dict[str, Any] = {"openai_compatible": {"second": CompatibleProvider(base_url=second.url)}}

    @property
    def asked(self) -> tuple[int, int]:
        return len(self.first.calls), len(self.second.calls)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    with MockProvider() as first, MockProvider() as second:
        monkeypatch.setenv("OPENAI_BASE_URL", first.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        yield Servers(first, second)


async def started(bench: Bench) -> list[AttemptStarted]:
    return [one.data for one in await bench.outcomes("attempt.started") if isinstance(one.data, AttemptStarted)]


def models(attempts: list[AttemptStarted]) -> list[str]:
    return [f"{one.task.provider}:{one.task.model}" for one in attempts]


CHEAP = Prices(source="control 1-0", rates={"input_mtok": "1", "output_mtok": "2"})


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_the_next_model_answers_at_its_own_price_and_every_event_says_so(
    bench: Bench, servers: Servers, status: int
) -> None:
    servers.first.script(Reply(status=status, headers={"retry-after": "5"}))
    event = await bench.allow(HELLO, **MODEL, alternatives=[other("second:large", prices=CHEAP, longest=64)])
    async with bench.executor(**servers.known):
        end = await bench.end(TaskSucceeded)
    assert servers.asked == (1, 1)
    assert (end.task.provider, end.task.model, end.task.requested_model) == ("second", "large", ASKED)
    assert (end.usage.cost, end.usage.prices) == (from_cents("0.12"), CHEAP)  # 1,000 at 1, 100 at 2 dollars a million
    first, second = await started(bench)
    assert models([first, second]) == [ASKED, "second:large"] and end.attempt_id == second.attempt_id
    assert first.after is None and second.after is not None
    assert (second.after.model, second.after.counts_for_breaker) == ("gpt-4o-mini", status != 429)
    result = await bench.result(event)
    assert (result["provider"], result["model"], result["requested_model"]) == ("second", "large", ASKED)
    keys = [call.headers["idempotency-key"] for call in (*servers.first.calls, *servers.second.calls)]
    assert keys[0] == event.subject != keys[1]
    body = servers.second.calls[0].body
    assert (body["model"], body["max_tokens"]) == ("large", 64)


@pytest.mark.parametrize(
    ("reply", "spend"),
    [
        (Reply(status=400), "none"),
        (Reply(status=404), "none"),
        (Reply(status=502), "uncertain"),
        (Reply(drop="unanswered"), "uncertain"),
        (Reply(delay_s=30), "uncertain"),
        (Reply(body={"usage": {"prompt_tokens": 10, "completion_tokens": 1}}), "certain"),
    ],
    ids=["refused", "unknown", "perhaps done", "lost", "late", "charged"],
)
async def test_no_other_is_asked_where_the_request_was_refused_or_money_may_have_gone(
    bench: Bench, servers: Servers, reply: Reply, spend: str
) -> None:
    servers.first.script(reply)
    timeout = {"timeout_ms": 3000} if reply.delay_s else {}
    await bench.allow(HELLO, **MODEL, alternatives=[other("second:large")], **timeout)
    async with bench.executor(**servers.known, late_result_seconds=0):
        end = await bench.end(TaskFailed)
    assert end.spend == spend and servers.asked == (1, 0) and end.task.requested_model is None


async def test_the_last_one_is_tried_again_and_no_more_than_so_many_attempts_are_made(
    bench: Bench, servers: Servers
) -> None:
    servers.first.default = servers.second.default = Reply(status=503, headers={"retry-after-ms": "1"})
    await bench.allow(HELLO, **MODEL, alternatives=[other("second:large")])
    async with bench.executor(**servers.known, max_attempts=3):
        end = await bench.end(TaskFailed)
    attempts = await started(bench)
    assert models(attempts) == [ASKED, "second:large", "second:large"] and servers.asked == (1, 2)
    assert [one.after is not None for one in attempts] == [False, True, False]
    assert (end.task.model, end.task.requested_model) == ("large", ASKED)


async def test_a_provider_without_a_key_or_that_is_not_known_is_passed_by(bench: Bench, servers: Servers) -> None:
    missing = CompatibleProvider(base_url=servers.first.url, key_env="NOT_SET_ANYWHERE")
    known: dict[str, Any] = {"openai_compatible": {**servers.known["openai_compatible"], "missing": missing}}
    others = [other("missing:model"), other("second:large")]
    await bench.allow(HELLO, provider="nowhere", model="model", alternatives=others)
    async with bench.executor(**known):
        end = await bench.end(TaskSucceeded)
    assert (end.task.model, end.task.requested_model) == ("large", "nowhere:model") and servers.asked == (0, 1)


class Refuses(OnlyCalls):
    """Certainly does nothing; `then` is what happens meanwhile."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def then(self) -> None:
        pass

    async def call(self, call: Call) -> Answer:
        self.calls.append(call)
        await self.then()
        raise ProviderFailure("RateLimitError", "not now", retry=True, retry_after_s=60, status=429)

    async def stream(self, call: Call, hear: Hear) -> Answer:
        hear(Chunk({"choices": []}, b"{}"))
        return await self.call(call)

    async def close(self) -> None:
        pass


async def test_an_alternative_that_was_stopped_meanwhile_is_not_asked(bench: Bench) -> None:
    """By a switch of its own, or by its breaker. Without a next one the first failure is what is told."""
    refuses, gate = Refuses(), Gate(is_open=True)
    stopped, broken = f"stopped-{uuid4()}", f"broken-{uuid4()}"
    async with bench.executor({"stub": refuses, "second": gate}) as executor:

        async def orders() -> None:
            await bench.engage(model=f"second:{stopped}")
            await open_breaker(bench, "second", broken)
            await until(lambda: ("second", broken) in executor.control.state.provider_breakers)

        refuses.then = orders  # type: ignore[method-assign]
        others = [other(f"second:{stopped}"), other(f"second:{broken}")]
        await bench.allow(alternatives=[*others, other("second:third")])
        await bench.ends(1)
        await bench.allow(alternatives=others)
        answered, failed = [event.data for event in await bench.ends(2)]
    assert isinstance(answered, TaskSucceeded) and answered.task.model == "third"
    assert isinstance(failed, TaskFailed) and failed.reason == "provider_error:RateLimitError"
    assert [call.model for call in gate.calls] == ["third"]


async def test_a_switch_between_the_record_and_the_call_of_an_alternative_is_seen_in_the_last_moment(
    bench: Bench,
) -> None:
    gate, model = Gate(is_open=True), f"stopped-{uuid4()}"
    async with bench.executor({"stub": Refuses(), "second": gate}) as executor:
        begin = executor.journal.begin

        async def begins_and_then_it_is_stopped(*args: Any) -> object:
            verdict = await begin(*args)
            if args[1] == 2:
                position = await bench.engage(model=f"second:{model}")
                await until(lambda: executor.control.state.position == position)
            return verdict

        executor.journal.begin = begins_and_then_it_is_stopped  # type: ignore[assignment]
        await bench.allow(alternatives=[other(f"second:{model}")])
        end = await bench.end(TaskFailed)
    assert gate.calls == [] and end.reason == "provider_error:RateLimitError"
    # The row of the task has heard of the other model since: the end must say again whose failure it was.
    assert (end.task.model, end.task.requested_model) == ("model", "stub:model")


async def test_with_a_breaker_that_opened_since_an_alternative_is_asked_at_once(bench: Bench) -> None:
    refuses, gate, model = Refuses(), Gate(is_open=True), f"broken-{uuid4()}"
    async with bench.executor({"stub": refuses, "second": gate}) as executor:
        await open_breaker(bench, "stub", model)
        await until(lambda: ("stub", model) in executor.control.state.provider_breakers)
        await bench.allow(model=model, alternatives=[other("second:third")])
        await bench.ends(1)
        await bench.allow(model=model)
        answered, blocked = [event.data for event in await bench.ends(2)]
    assert isinstance(answered, TaskSucceeded) and answered.task.requested_model == f"stub:{model}"
    assert isinstance(blocked, TaskBlocked) and blocked.reason == BlockReason.PROVIDER_BREAKER_OPEN
    assert refuses.calls == [] and models(await started(bench)) == ["second:third"]


@pytest.mark.parametrize("most", [1, 2])
async def test_a_breaker_that_opens_between_the_record_and_the_call_sends_it_on(bench: Bench, most: int) -> None:
    """While another attempt is left."""
    refuses, gate, model = Refuses(), Gate(is_open=True), f"broken-{uuid4()}"
    async with bench.executor({"stub": refuses, "second": gate}, max_attempts=most) as executor:
        begin = executor.journal.begin

        async def begins_and_then_it_opens(*args: Any) -> object:
            verdict = await begin(*args)
            if args[1] == 1:
                await open_breaker(bench, "stub", model)
                await until(lambda: ("stub", model) in executor.control.state.provider_breakers)
            return verdict

        executor.journal.begin = begins_and_then_it_opens  # type: ignore[assignment]
        await bench.allow(model=model, alternatives=[other("second:third")])
        end: TaskSucceeded | TaskBlocked = await bench.end(TaskSucceeded if most > 1 else TaskBlocked)
    assert refuses.calls == [] and end.task.model == ("third" if most > 1 else model)


@pytest.mark.parametrize("listens", ["first", "second"])
async def test_nothing_is_asked_again_once_a_piece_was_heard(bench: Bench, listens: str) -> None:
    """A failure that says it cost nothing is believed; what was heard cannot be taken back."""
    event = bench.allowed(stream=True, alternatives=[other("second:third")])
    unheard = Gate(is_open=True)
    known: dict[str, Provider] = {"stub": Refuses(), "second": unheard} if listens == "first" else {"second": unheard}
    channel = bench.partition.chunks(UUID(event.subject))
    async with bench.redis_as("gateway").pubsub() as heard:
        await heard.ssubscribe(channel)
        await bench.decide(event)
        async with bench.executor(known):
            (end,) = await bench.ends(1)
    if listens == "first":
        assert isinstance(end.data, TaskFailed) and unheard.calls == []
    else:
        assert isinstance(end.data, TaskSucceeded) and len(unheard.calls) == 1


async def test_the_cache_keeps_it_as_the_other_models_answer(bench: Bench) -> None:
    refuses, gate = Refuses(), Gate(is_open=True)
    async with bench.executor({"stub": refuses, "second": gate}):
        for count in (1, 2):
            await bench.allow({"text": "hello"}, cached=True, alternatives=[other("second:third")])
            await bench.ends(count)
        moved = (await bench.outcomes("task.succeeded"))[0].data
        assert isinstance(moved, TaskSucceeded) and moved.cache_key is not None
        asked = {"provider": "second", "model": "third", "cache_key": moved.cache_key}
        await bench.allow({"text": "hello"}, **asked)
        first, second, third = [event.data for event in await bench.ends(3)]
    assert isinstance(first, TaskSucceeded) and isinstance(second, TaskSucceeded) and isinstance(third, TaskSucceeded)
    assert [one.was_cached for one in (first, second, third)] == [False, False, True]
    assert len(refuses.calls) == len(gate.calls) == 2, "the answer to another model's question was not theirs"


@pytest.mark.parametrize("retry_safe", [False, True])
async def test_an_attempt_of_an_alternative_that_was_lost_is_told_as_its_own(bench: Bench, retry_safe: bool) -> None:
    gate = Gate()
    await bench.allow(retry_safe=retry_safe, alternatives=[other("second:third")])
    async with bench.executor({"stub": Refuses(), "second": gate}, name="dies") as dies:
        await until(lambda: bool(gate.calls))
        await dies.crash()
    async with bench.executor({"stub": Refuses(), "second": gate}, name="heir"):
        end: DecisionExpired | TaskFailed = await bench.end(DecisionExpired if retry_safe else TaskFailed)
    assert (end.spend, end.task.model, end.task.requested_model) == ("uncertain", "third", "stub:model")


async def open_breaker(bench: Bench, provider: str, model: str) -> None:
    """As policy's elected writer publishes it."""
    about = {"provider": provider, "model": model, "state": "open", "previous": "closed", "version": 1}
    await bench.order(type="provider_breaker.changed", **about, until="2099-01-01T00:00:00Z", reason="it fails")
