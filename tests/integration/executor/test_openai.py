"""OpenAI's wire format over real HTTP, with the official SDK, against a server that keeps its own account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from shared import pricing
from shared.events.decisions import TaskAllowed
from shared.events.outcomes import AttemptResolved, TaskFailed, TaskSucceeded
from shared.events.prices import Prices
from shared.money import from_cents
from shared.price_list import charge
from tests.integration.executor.conftest import NOBODY, TWO_LIVE, Bench, until
from tests.mock_provider import MockProvider, Reply

MODEL: dict[str, Any] = {"provider": "openai", "model": "gpt-4o-mini"}
SECRET = "sk-test-0123456789abcdef"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockProvider]:
    with MockProvider() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        yield running


async def test_a_success_is_priced_exactly_from_its_usage(bench: Bench, provider: MockProvider) -> None:
    provider.script(Reply(text="hello yourself", message={"reasoning_content": "since it greeted me"}))
    event = await bench.allow(HELLO, **MODEL, amount=from_cents(1))
    async with bench.executor():
        end = await bench.end(TaskSucceeded)
    assert end.output_text == "hello yourself"
    # 1,000 tokens at 0.15 and 100 at 0.60 dollars a million.
    assert end.usage.cost == from_cents("0.021") and (end.usage.input_tokens, end.usage.output_tokens) == (1000, 100)
    assert end.reasoning_trace == {"text": "since it greeted me"}
    assert end.response_metadata["boundary_id"] == "b07_p3_aisuite_chokepoint"
    assert end.response_metadata["completion"]["id"] == "chatcmpl-1"
    (call,) = provider.calls
    assert call.path == "/v1/chat/completions" and call.headers["authorization"] == f"Bearer {SECRET}"
    assert call.headers["idempotency-key"] == event.subject and call.headers["accept-encoding"] == "identity"
    assert call.headers["x-client-request-id"] == str(end.attempt_id)
    assert (call.body["model"], call.body["messages"]) == ("gpt-4o-mini", HELLO["messages"])


async def test_cached_input_tokens_cost_less(bench: Bench, provider: MockProvider) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 1000}}
    provider.script(Reply(usage=usage))
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskSucceeded)
    assert end.usage.cost == pricing.cost("openai", "gpt-4o-mini", 1000, 0, cached_input_tokens=1000)
    assert 0 < end.usage.cost < from_cents("0.015")


async def test_more_than_was_reserved_is_recorded_in_full(bench: Bench, provider: MockProvider) -> None:
    provider.script(Reply(usage={"prompt_tokens": 2_000_000, "completion_tokens": 1_000_000}))
    await bench.allow(HELLO, **MODEL, amount=1)
    async with bench.executor():
        assert (await bench.end(TaskSucceeded)).usage.cost == from_cents(30 + 60)


async def test_parameters_pass_through_ours_do_not_and_the_output_is_bounded(
    bench: Bench, provider: MockProvider
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    prompt = {
        **HELLO,
        "model": "openai:gpt-4o-mini",
        "temperature": 0.5,
        "tools": tools,
        "response_format": {"type": "json_object"},
        "stop": ["x"],
        "max_tokens": 5000,
        "stream": True,
        "cache_enabled": False,
        "cache_watermark": 3,
        "retry_safe": True,
        "kill_switch": False,
        "raise_error": True,
        "simulated_output_text": "free",
        "simulated_cost_cents": 0,
    }
    await bench.allow(prompt, **MODEL, max_output_tokens=64)
    async with bench.executor():
        assert (await bench.end(TaskSucceeded)).output_text == "hello"
    (call,) = provider.calls
    assert call.body == {
        "model": "gpt-4o-mini",
        "messages": HELLO["messages"],
        "temperature": 0.5,
        "tools": tools,
        "response_format": {"type": "json_object"},
        "stop": ["x"],
        "max_tokens": 64,
    }


@pytest.mark.parametrize(
    ("prompt", "model", "field"),
    [
        ({"input": "hi", "max_completion_tokens": 900}, "gpt-4o-mini", "max_completion_tokens"),
        ({"text": "hi"}, "gpt-5", "max_completion_tokens"),
        ({"text": "hi"}, "gpt-4o", "max_tokens"),
    ],
)
async def test_the_bound_is_named_as_the_model_knows_it(
    bench: Bench, provider: MockProvider, prompt: dict[str, Any], model: str, field: str
) -> None:
    await bench.allow(prompt, provider="openai", model=model, max_output_tokens=64)
    async with bench.executor():
        await bench.ends(1)
    (call,) = provider.calls
    assert call.body == {"model": model, "messages": [{"role": "user", "content": "hi"}], field: 64}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (422, "UnprocessableEntityError"),
    ],
)
async def test_a_callers_mistake_costs_nothing_and_opens_no_breaker(
    bench: Bench, provider: MockProvider, status: int, kind: str
) -> None:
    provider.script(Reply(status=status))
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, end.spend, end.counts_for_breaker) == (f"provider_error:{kind}", "none", False)
    assert len(provider.calls) == 1


@pytest.mark.parametrize(
    ("status", "spend"), [(500, "none"), (502, "uncertain"), (504, "uncertain"), (408, "uncertain")]
)
async def test_the_providers_own_failure_counts_and_is_not_repeated(
    bench: Bench, provider: MockProvider, status: int, spend: str
) -> None:
    provider.script(Reply(status=status))
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert end.counts_for_breaker and end.spend == spend
    assert len(provider.calls) == 1, "what may have been done is not done again"


@pytest.mark.parametrize(("status", "counts"), [(429, False), (503, True)])
async def test_what_certainly_cost_nothing_is_tried_again_each_with_its_own_record(
    bench: Bench, provider: MockProvider, status: int, counts: bool
) -> None:
    provider.script(Reply(status=status), Reply(status=status), Reply(text="third"))
    event = await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskSucceeded)
    assert end.output_text == "third" and (len(provider.calls), provider.charged_calls) == (3, 1)
    started = await bench.outcomes("attempt.started")
    assert [one.data.attempt_no for one in started] == [1, 2, 3]  # type: ignore[attr-defined]
    assert len({one.id for one in started}) == 3
    assert end.attempt_id == started[2].data.attempt_id  # type: ignore[attr-defined]
    assert {call.headers["idempotency-key"] for call in provider.calls} == {event.subject}


@pytest.mark.parametrize(("status", "counts"), [(429, False), (503, True)])
async def test_tries_end(bench: Bench, provider: MockProvider, status: int, counts: bool) -> None:
    provider.default = Reply(status=status)
    await bench.allow(HELLO, **MODEL)
    async with bench.executor(max_attempts=2):
        end = await bench.end(TaskFailed)
    assert (end.counts_for_breaker, end.spend, len(provider.calls)) == (counts, "none", 2)


async def test_retry_after_is_honoured(bench: Bench, provider: MockProvider) -> None:
    provider.script(Reply(status=429, headers={"retry-after": "3"}))
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskSucceeded)
    # By the log's own time: an executor's may be late where the reply that told it of that was held up.
    entries: Any = await bench.reader.xrange(bench.partition.outcomes)
    first, second, ended = (int(entry_id.partition(b"-")[0]) for entry_id, _ in entries)
    assert second - first >= 3000
    assert end.usage.latency_ms <= ended - second + 100, "the latency is of the call, not of the wait"


@pytest.mark.parametrize("header", ["60", "Wed, 21 Oct 2037 07:28:00 GMT"])
async def test_a_wait_beyond_the_tasks_time_is_not_begun(bench: Bench, provider: MockProvider, header: str) -> None:
    provider.default = Reply(status=429, headers={"retry-after": header})
    await bench.allow(HELLO, **MODEL, timeout_ms=30_000)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, len(provider.calls)) == ("provider_error:RateLimitError", 1)


async def test_a_kill_switch_ends_the_retries(bench: Bench, provider: MockProvider) -> None:
    provider.default = Reply(status=429, headers={"retry-after": "5"})
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        await until(lambda: len(provider.calls) == 1)
        await bench.engage()
        end = await bench.end(TaskFailed)
    assert (end.reason, end.provider_attempted, len(provider.calls)) == ("provider_error:RateLimitError", True, 1)
    assert len(await bench.outcomes("attempt.started")) == 1


async def test_a_refused_connection_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{NOBODY}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, end.spend, end.counts_for_breaker) == ("provider_error:APIConnectionError", "none", True)
    assert len(await bench.outcomes("attempt.started")) == 3


@pytest.mark.parametrize("drop", ["unanswered", "in the middle"])
async def test_a_connection_lost_after_the_request_was_sent_may_have_cost_something(
    bench: Bench, provider: MockProvider, drop: Any
) -> None:
    provider.script(Reply(drop=drop))
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.spend, end.counts_for_breaker, len(provider.calls)) == ("uncertain", True, 1)
    assert provider.charged_calls == 1, "it did charge: to call again would have paid twice"


async def test_a_slow_answer_times_out_and_its_cost_is_told_when_it_comes(bench: Bench, provider: MockProvider) -> None:
    provider.script(Reply(delay_s=4))
    await bench.allow(HELLO, **MODEL, timeout_ms=1500)
    async with bench.executor():
        end = await bench.end(TaskFailed)
        assert (end.reason, end.spend) == ("provider_timeout", "uncertain") and end.usage.latency_ms >= 1500
        late = await bench.event(AttemptResolved)
    assert (late.spend, late.usage.cost) == ("certain", from_cents("0.021"))
    assert late.usage.latency_ms >= 4000 and len(provider.calls) == 1


async def test_a_late_refusal_says_that_nothing_was_spent(bench: Bench, provider: MockProvider) -> None:
    provider.script(Reply(status=500, delay_s=4))
    await bench.allow(HELLO, **MODEL, timeout_ms=1500)
    async with bench.executor():
        assert (await bench.end(TaskFailed)).reason == "provider_timeout"
        assert (await bench.event(AttemptResolved)).spend == "none"


async def test_an_answer_that_drips_times_out(bench: Bench, provider: MockProvider) -> None:
    provider.script(Reply(text="x" * 999, drip_s=0.05))
    await bench.allow(HELLO, **MODEL, timeout_ms=1500)
    async with bench.executor(late_result_seconds=0.1):
        assert (await bench.end(TaskFailed)).reason == "provider_timeout"


@pytest.mark.parametrize(
    ("reply", "text", "cost"),
    [
        (Reply(text="a\x00b\ud800c"), "a\ufffdb\ufffdc", "0.021"),
        (Reply(text=None, message={"tool_calls": []}), "", "0.021"),
        (Reply(text=[{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]), "one two", "0.021"),
        (Reply(text={"odd": 1}), '{"odd":1}', "0.021"),
        (Reply(usage=None), "hello", "10"),
        (Reply(usage="lots"), "hello", "10"),
        (Reply(usage={"prompt_tokens": -5, "completion_tokens": 3}), "hello", "10"),
        (Reply(usage={"prompt_tokens": 10**40, "completion_tokens": 3}), "hello", "10"),
        (Reply(usage={"prompt_tokens": "1000", "completion_tokens": None}), "hello", "10"),
        (Reply(message={"reasoning": {"deep": json.loads("[" * 200 + "]" * 200)}}), "hello", "0.021"),
    ],
)
async def test_whatever_comes_is_an_answer_with_its_cost(
    bench: Bench, provider: MockProvider, reply: Reply, text: str, cost: str
) -> None:
    """Without a usage that can be true nobody knows the cost, and the whole reservation (10 cents) counts."""
    provider.script(reply)
    event = await bench.allow(HELLO, **MODEL, amount=from_cents(10))
    async with bench.executor():
        end = await bench.end(TaskSucceeded)
    assert (end.output_text, end.usage.cost) == (text, from_cents(cost))
    assert (await bench.result(event))["output_text"] == text


@pytest.mark.parametrize(
    ("body", "spend", "cost"),
    [
        (b"<html>no</html>", "uncertain", "0"),
        (b"[]", "uncertain", "0"),
        (b"[" * 5000, "uncertain", "0"),
        ({"error": {"message": "upstream"}}, "uncertain", "0"),
        ({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}, "certain", "0.021"),
    ],
)
async def test_what_is_no_answer_fails_in_one_way_with_its_cost(
    bench: Bench, provider: MockProvider, body: Any, spend: str, cost: str
) -> None:
    provider.script(Reply(body=body))
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, end.spend, end.usage.cost) == ("provider_error:InvalidAnswer", spend, from_cents(cost))


async def test_an_endless_answer_is_cut_off(bench: Bench, provider: MockProvider) -> None:
    provider.script(Reply(text="x" * 5 * 2**20))
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, end.spend) == ("provider_error:AnswerTooLarge", "uncertain")


async def test_no_credential_gets_into_an_event(bench: Bench, provider: MockProvider) -> None:
    message = f"Incorrect API key provided: {SECRET}. Or was it sk-proj-another***one? Bearer abcdefgh"
    provider.script(Reply(status=401, body={"error": {"message": message}}))
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert "Incorrect API key" in end.detail
    assert not any(secret in end.detail for secret in (SECRET, "another", "abcdefgh"))


async def test_without_a_key_the_task_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    await bench.allow(HELLO, **MODEL)
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, end.counts_for_breaker) == ("provider_error:MissingCredentials", False)
    assert not end.provider_attempted and "OPENAI_API_KEY" in end.detail


async def test_ten_identical_tasks_are_charged_once(bench: Bench, provider: MockProvider) -> None:
    provider.default = Reply(delay_s=0.1)
    await bench.decide(*(bench.allowed(HELLO, cached=True, **MODEL) for _ in range(10)))
    async with bench.executor(**TWO_LIVE), bench.executor(**TWO_LIVE):
        await bench.ends(10)
    assert (len(provider.calls), provider.charged_calls) == (1, 1)


def test_without_a_key_the_sdk_is_not_even_imported() -> None:
    """It takes a second of processor time, which the stub's users should not wait for."""
    code = "import sys, services.executor.main; assert 'openai' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)


async def test_the_call_is_charged_by_the_decisions_prices_and_says_so(bench: Bench, provider: MockProvider) -> None:
    """Whoever has the event can compute its cost again."""
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 60},
    }
    provider.script(Reply(usage=usage))
    own = Prices(source="control 1-0", rates={"input_mtok": "1", "cache_read_mtok": "0.5", "output_mtok": "2"})
    event = bench.allowed(HELLO, **MODEL)
    assert isinstance(event.data, TaskAllowed)
    await bench.decide(event.model_copy(update={"data": event.data.model_copy(update={"prices": own})}))
    async with bench.executor():
        spent = (await bench.end(TaskSucceeded)).usage
    assert spent.cost == from_cents("0.1") and spent.prices == own
    assert spent.cost == charge(own, spent.tokens) and spent.tokens["output_reasoning_tokens"] == 60
