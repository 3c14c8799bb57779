"""Anthropic's wire format over real HTTP, with the official SDK, against a server that keeps its own account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from services.executor.providers.anthropic import AnthropicProvider
from services.executor.providers.protocol import Call, Chunk, ProviderFailure
from shared.events.outcomes import TaskSucceeded
from shared.money import from_cents
from tests.integration.executor.conftest import NOBODY, Bench
from tests.mock_anthropic import Message
from tests.mock_provider import MockProvider

SECRETS = ["plain-test-0123456789", "plain-other-0123456789"]
WEATHER = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}}
BLOCKS: tuple[dict[str, Any], ...] = (
    {"type": "thinking", "thinking": "Hm."},
    {"type": "text", "text": "Wait."},
    WEATHER,
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockProvider]:
    with MockProvider(Message()) as running:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", running.origin)
        monkeypatch.setenv("ANTHROPIC_API_KEY", SECRETS[0])
        yield running


@pytest.fixture
async def provider(server: MockProvider) -> AsyncIterator[AnthropicProvider]:
    one = AnthropicProvider(SECRETS[:1])
    yield one
    await one.close()


def call(**prompt: Any) -> Call:
    return Call("anthropic", "claude-haiku-4-5", {"input": "hello", **prompt}, 64, 10, "key")


async def failure(provider: AnthropicProvider, *, streamed: bool = False) -> ProviderFailure:
    with pytest.raises(ProviderFailure) as failed:
        await (provider.stream(call(), lambda _: None) if streamed else provider.call(call()))
    return failed.value


async def test_a_task_is_answered_priced_and_bounded(bench: Bench, server: MockProvider) -> None:
    await bench.allow({"input": "hello"}, provider="anthropic", model="claude-haiku-4-5", max_output_tokens=64)
    async with bench.executor():
        end = await bench.end(TaskSucceeded)
    # 1,000 tokens at 1 and 100 at 5 dollars a million.
    assert (end.output_text, end.usage.cost) == ("hello", from_cents("0.15"))
    assert end.response_metadata["completion"]["choices"][0]["finish_reason"] == "stop"
    (one,) = server.calls
    assert one.path == "/v1/messages" and one.headers["authorization"] == f"Bearer {SECRETS[0]}"
    assert one.headers["accept-encoding"] == "identity", "what is unpacked is in no bounds"
    said = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert one.body == {"model": "claude-haiku-4-5", "max_tokens": 64, "messages": said}


async def test_streamed_and_not_the_answer_is_the_same(provider: AnthropicProvider, server: MockProvider) -> None:
    server.default = Message(blocks=BLOCKS, stop_reason="tool_use")
    heard: list[Chunk] = []
    whole, streamed = await provider.call(call()), await provider.stream(call(), heard.append)
    assert [one.body.get("stream") for one in server.calls] == [None, True]
    for answer in (whole, streamed):
        (choice,) = answer.metadata["completion"]["choices"]
        (used,) = choice["message"]["tool_calls"]
        assert (used["id"], used["function"]["name"]) == ("toolu_1", "weather")
        assert json.loads(used["function"]["arguments"]) == {"city": "Köln"}
        assert (choice["finish_reason"], answer.output_text, answer.reasoning_trace) == ("tool_calls", "Wait.", "Hm.")
        assert (answer.cost, answer.input_tokens, answer.output_tokens) == (from_cents("0.15"), 1000, 100)
    assert len(heard) > 6 and heard[-1].body["usage"]["completion_tokens"] == 100


@pytest.mark.parametrize(
    ("status", "kind", "spend", "counts", "retry"),
    [
        (400, "BadRequestError", "none", False, False),
        (401, "AuthenticationError", "none", False, False),
        (429, "RateLimitError", "none", False, True),
        (500, "InternalServerError", "none", True, False),
        (503, "ServiceUnavailableError", "none", True, True),
        (504, "GatewayTimeoutError", "uncertain", True, False),
        (529, "OverloadedError", "none", True, True),
    ],
)
async def test_a_status_means_what_it_means_of_openai_and_is_asked_once(
    provider: AnthropicProvider, server: MockProvider, status: int, kind: str, spend: str, counts: bool, retry: bool
) -> None:
    limits = {"retry-after": "7", "anthropic-ratelimit-requests-remaining": "0"}
    server.default = Message(status=status, headers=limits)
    for streamed in (False, True):
        failed = await failure(provider, streamed=streamed)
        assert (failed.kind, failed.spend, failed.counts_for_breaker, failed.retry) == (kind, spend, counts, retry)
        assert failed.retry_after_s == 7
    assert len(server.calls) == 2


async def test_a_lost_connection_may_have_cost_something_and_a_refused_one_did_not(
    provider: AnthropicProvider, server: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script(Message(drop="unanswered"), Message(drop="in the middle"))
    assert {(await failure(provider)).spend for _ in range(2)} == {"uncertain"} and len(server.calls) == 2
    monkeypatch.setenv("ANTHROPIC_BASE_URL", NOBODY)
    nowhere = AnthropicProvider(SECRETS)
    failed = await failure(nowhere)
    await nowhere.close()
    assert (failed.kind, failed.spend, failed.retry) == ("APIConnectionError", "none", True)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Message(pieces=({"type": "message_start", "message": {"usage": {"input_tokens": 5}}},)), "InvalidAnswer"),
        (Message(pieces=({"type": "error", "error": {"type": "overloaded_error", "message": "no"}},)), "StreamError"),
    ],
)
async def test_a_stream_without_its_end_may_have_cost_something(
    provider: AnthropicProvider, server: MockProvider, reply: Message, kind: str
) -> None:
    server.script(reply)
    failed = await failure(provider, streamed=True)
    assert (failed.kind, failed.spend) == (kind, "uncertain")


async def test_a_refused_key_is_not_told_and_another_may_be_tried(server: MockProvider) -> None:
    server.script(Message(status=401, body={"error": {"message": f"bad {SECRETS[0]}, not {SECRETS[1]}"}}))
    both = AnthropicProvider(SECRETS)
    failed = await failure(both)
    assert (failed.retry, failed.retry_after_s) == (True, 0) and not any(one in failed.detail for one in SECRETS)
    await both.call(call())
    await both.close()
    assert [one.headers["authorization"].removeprefix("Bearer ") for one in server.calls] == SECRETS


async def test_embeddings_are_not_asked_for(provider: AnthropicProvider, server: MockProvider) -> None:
    with pytest.raises(ProviderFailure, match="no embeddings"):
        await provider.embed(call())
    assert not server.calls


def test_without_a_key_the_sdk_is_not_even_imported() -> None:
    code = "import sys, services.executor.main; assert 'anthropic' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
