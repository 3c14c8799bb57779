"""Gemini's wire format over real HTTP, with the official SDK, against a server that keeps its own account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from services.executor.providers import wire
from services.executor.providers.gemini import GeminiProvider
from services.executor.providers.protocol import Call, Chunk, ProviderFailure
from shared.events.outcomes import TaskSucceeded
from shared.money import from_cents
from tests.integration.executor.conftest import NOBODY, Bench
from tests.mock_gemini import Generated
from tests.mock_provider import MockProvider

SECRETS = ["plain-test-0123456789", "plain-other-0123456789"]
PARTS: tuple[dict[str, Any], ...] = (
    {"text": "Hm.", "thought": True},
    {"text": "Wait."},
    {"functionCall": {"name": "weather", "args": {"city": "Köln"}}, "thoughtSignature": "c2lnbmF0dXJl"},
)
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockProvider]:
    with MockProvider(Generated()) as running:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", running.origin)
        monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
        monkeypatch.setenv("GEMINI_API_KEY", SECRETS[0])
        yield running


@pytest.fixture
async def provider(server: MockProvider) -> AsyncIterator[GeminiProvider]:
    one = GeminiProvider(SECRETS[:1])
    yield one
    await one.close()


def call(**prompt: Any) -> Call:
    return Call("gemini", "gemini-2.5-flash", {"input": "hello", **prompt}, 64, 10, "key")


async def failure(provider: GeminiProvider, *, streamed: bool = False) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as failed:
        await (provider.stream(call(), lambda _: None) if streamed else provider.call(call()))
    return failed.value


async def test_a_task_is_answered_priced_and_bounded(bench: Bench, server: MockProvider) -> None:
    await bench.allow({"input": "hello"}, provider="gemini", model="gemini-2.5-flash", max_output_tokens=64)
    async with bench.executor():
        end = await bench.end(TaskSucceeded)
    # 1,000 tokens at 0.30 and 100 at 2.50 dollars a million.
    assert (end.output_text, end.usage.cost) == ("hello", from_cents("0.055"))
    assert end.response_metadata["completion"]["choices"][0]["finish_reason"] == "stop"
    (one,) = server.calls
    assert one.path == "/v1/models/gemini-2.5-flash:generateContent"
    assert one.headers["x-goog-api-key"] == SECRETS[0]
    assert one.headers["accept-encoding"] == "identity", "what is unpacked is in no bounds"
    said = [{"role": "user", "parts": [{"text": "hello"}]}]
    assert one.body == {"contents": said, "generationConfig": {"maxOutputTokens": 64}}


async def test_streamed_and_not_the_answer_is_the_same(provider: GeminiProvider, server: MockProvider) -> None:
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 60, "thoughtsTokenCount": 40}
    server.default = Generated(parts=PARTS, usage=usage)
    heard: list[Chunk] = []
    whole, streamed = await provider.call(call()), await provider.stream(call(), heard.append)
    assert [one.path.rpartition(":")[2] for one in server.calls] == ["generateContent", "streamGenerateContent?alt=sse"]
    assert server.calls[0].body == server.calls[1].body
    for answer in (whole, streamed):
        (choice,) = answer.metadata["completion"]["choices"]
        (used,) = choice["message"]["tool_calls"]
        assert (used["id"], used["function"]["name"]) == ("call_key_0", "weather")
        assert json.loads(used["function"]["arguments"]) == {"city": "Köln"}
        assert used["extra_content"] == {"google": {"thought_signature": "c2lnbmF0dXJl"}}
        assert (choice["finish_reason"], answer.output_text, answer.reasoning_trace) == ("tool_calls", "Wait.", "Hm.")
        # Thoughts are paid for as the answer is.
        assert (answer.cost, answer.input_tokens, answer.output_tokens) == (from_cents("0.055"), 1000, 100)
    assert len(heard) > 5 and heard[-1].body["usage"]["completion_tokens"] == 100


@pytest.mark.parametrize(
    ("status", "kind", "spend", "counts", "retry"),
    [
        (400, "INVALID_ARGUMENT", "none", False, False),
        (429, "RESOURCE_EXHAUSTED", "none", False, True),
        (500, "INTERNAL", "none", True, False),
        (503, "UNAVAILABLE", "none", True, True),
        (504, "UNKNOWN", "uncertain", True, False),
    ],
)
async def test_a_status_means_what_it_means_of_openai_and_is_asked_once(
    provider: GeminiProvider, server: MockProvider, status: int, kind: str, spend: str, counts: bool, retry: bool
) -> None:
    for waits in ({"headers": {"retry-after": "7.5"}}, {"details": (RETRY_INFO,)}):
        server.default = Generated(status=status, **waits)
        for streamed in (False, True):
            failed = await failure(provider, streamed=streamed)
            assert (failed.kind, failed.spend, failed.counts_for_breaker, failed.retry) == (kind, spend, counts, retry)
            assert failed.retry_after_s == 7.5
    assert len(server.calls) == 4


async def test_a_refused_key_rests_and_another_is_asked(server: MockProvider) -> None:
    """Google says 400 of a key that it does not know."""
    provider = GeminiProvider(SECRETS)
    server.script(Generated(status=400, details=({"reason": "API_KEY_INVALID"},)))
    failed = await failure(provider)
    assert (failed.status, failed.retry, failed.retry_after_s) == (401, True, 0.0)
    for _ in range(2):
        await provider.call(call())
    await provider.close()
    assert [one.headers["x-goog-api-key"] for one in server.calls] == [SECRETS[0], SECRETS[1], SECRETS[1]]


async def test_a_lost_connection_may_have_cost_something_and_a_refused_one_did_not(
    provider: GeminiProvider, server: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script(Generated(drop="unanswered"), Generated(drop="in the middle"))
    assert {(await failure(provider)).spend for _ in range(2)} == {"uncertain"}
    server.script(Generated(drop="unanswered"))
    assert (await failure(provider, streamed=True)).spend == "uncertain" and len(server.calls) == 3
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", NOBODY)
    elsewhere = GeminiProvider(SECRETS[:1])
    failed = await failure(elsewhere)
    await elsewhere.close()
    assert (failed.spend, failed.retry) == ("none", True)


@pytest.mark.parametrize(
    "pieces",
    [
        ({"candidates": [{"content": {"parts": [{"text": "be"}]}}]},),
        (b"not json",),
        (
            {"candidates": [{"content": {"parts": [{"text": "be"}]}}]},
            {"error": {"code": 503, "message": "later", "status": "UNAVAILABLE"}},
        ),
    ],
)
async def test_a_stream_that_ends_badly_may_have_cost_something(
    provider: GeminiProvider, server: MockProvider, pieces: tuple[Any, ...]
) -> None:
    server.default = Generated(pieces=pieces)
    assert (await failure(provider, streamed=True)).spend == "uncertain"
    assert len(server.calls) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_sdk_does_not_go_on_by_itself(provider: GeminiProvider, server: MockProvider, streamed: bool) -> None:
    """A call that nobody recorded: the SDK would ask again where an answer says that it goes on."""
    part = {"content": {"parts": [{"text": "be"}]}, "finishReason": "CONTINUATION", "continuationToken": "more"}
    body = {"candidates": [part], "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1}}
    server.default = Generated(pieces=(body,), body=None if streamed else body)
    answer = await (provider.stream(call(), lambda _: None) if streamed else provider.call(call()))
    assert answer.output_text == "be" and len(server.calls) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_does_not_end_is_cut_off(
    provider: GeminiProvider, server: MockProvider, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr(wire, "MAX_ANSWER_BYTES", 10_000)
    monkeypatch.setattr(wire, "MAX_STREAM_BYTES", 10_000)
    server.default = Generated(text="x" * 20_000)
    failed = await failure(provider, streamed=streamed)
    assert (failed.kind, failed.spend) == ("AnswerTooLarge", "uncertain")


async def test_a_blocked_prompt_is_an_answer_without_text(provider: GeminiProvider, server: MockProvider) -> None:
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 1000}}
    server.script(Generated(body=body), Generated(pieces=(body,)))
    for answer in (await provider.call(call()), await provider.stream(call(), lambda _: None)):
        (choice,) = answer.metadata["completion"]["choices"]
        assert (choice["finish_reason"], answer.output_text) == ("content_filter", "")
        assert "SAFETY" in choice["message"]["refusal"]
        assert (answer.input_tokens, answer.output_tokens, answer.cost) == (1000, 0, from_cents("0.03"))


def test_its_sdk_is_not_imported_without_its_key() -> None:
    code = "import sys, services.executor.main; from services.executor.providers import by_name; "
    code += "from shared.settings import Settings; by_name(Settings(), {}); assert 'google.genai' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)
