"""A prepared request is the SDK's own, and what is no plain success goes the SDK's way."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from services.executor.providers.openai import OpenAIProvider
from services.executor.providers.protocol import Call, ProviderFailure
from services.executor.providers.transport import Transport
from tests.mock_provider import MockProvider, Reply

SECRET = "sk-test-0123456789abcdef"
CALL = Call(
    "openai",
    "gpt-4o-mini",
    {"messages": [{"role": "user", "content": "grüß dich"}]},
    30,
    60.0,
    idempotency_key="task",
    attempt_id="attempt",
)


@pytest.fixture
def server() -> Any:
    with MockProvider() as running:
        yield running


@pytest.fixture
async def provider(server: MockProvider) -> AsyncIterator[OpenAIProvider]:
    made = OpenAIProvider([SECRET], server.url)
    yield made
    await made.close()


async def test_what_is_sent_is_what_the_sdk_sends(provider: OpenAIProvider, server: MockProvider) -> None:
    await provider.call(CALL)
    await provider.call(replace(CALL, idempotency_key="another", attempt_id="other", timeout_s=59.5))
    await provider.stream(CALL, lambda _: None)
    http = httpx2.AsyncClient(transport=Transport(), headers={"accept-encoding": "identity"})
    async with AsyncOpenAI(api_key=SECRET, base_url=server.url, max_retries=0, http_client=http) as sdk:
        await sdk.chat.completions.create(
            model="gpt-4o-mini",
            messages=CALL.prompt["messages"],
            max_tokens=30,
            timeout=60.0,
            extra_headers={"Idempotency-Key": "task", "X-Client-Request-Id": "attempt"},
        )
    whole, another, streamed, own = server.calls
    assert (whole.path, whole.headers, whole.body) == (own.path, own.headers, own.body)
    assert {**streamed.headers, "content-length": ""} == {**own.headers, "content-length": ""}
    differs = {name for name, value in another.headers.items() if own.headers[name] != value}
    assert differs == {"idempotency-key", "x-client-request-id", "x-stainless-read-timeout"}
    assert another.headers["x-stainless-read-timeout"] == "59.5"


async def whole(provider: OpenAIProvider) -> str:
    return (await provider.call(CALL)).output_text


async def streamed(provider: OpenAIProvider) -> str:
    return (await provider.stream(CALL, lambda _: None)).output_text


ways = pytest.mark.parametrize("ask", [whole, streamed])
Ask = Callable[[OpenAIProvider], Any]


@ways
async def test_a_redirect_is_followed_and_takes_no_key_to_another_server(
    provider: OpenAIProvider, server: MockProvider, ask: Ask
) -> None:
    with MockProvider() as other:
        server.script(
            Reply(status=307, headers={"location": "/v1/elsewhere"}),
            Reply(status=307, headers={"location": f"{other.url}/chat/completions"}),
        )
        assert await ask(provider) == "hello"
        first, second = server.calls
        assert second.path == "/v1/elsewhere" and first.body == second.body == other.calls[0].body
        assert "authorization" in second.headers and "authorization" not in other.calls[0].headers


@ways
async def test_a_packed_answer_is_read(provider: OpenAIProvider, server: MockProvider, ask: Ask) -> None:
    body = gzip.compress(Reply(text="packed").content())
    server.script(Reply(body=body, headers={"content-encoding": "gzip"}))
    assert await ask(provider) == "packed"


@ways
@pytest.mark.parametrize("status", [200, 400])
async def test_what_a_packed_answer_unpacks_to_is_bounded(
    provider: OpenAIProvider, server: MockProvider, ask: Ask, status: int
) -> None:
    """Its size says nothing: as it comes it is a thousandth of that."""
    body = gzip.compress(b'{"choices": [' + b" " * 2**27)
    server.default = Reply(status=status, body=body, headers={"content-encoding": "gzip"})
    tracemalloc.start()
    with pytest.raises(ProviderFailure) as failure:
        await ask(provider)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "the answer has more than" in failure.value.detail and len(server.calls) == 1
    assert most < 2**25, "nobody had it all in memory"


@ways
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "gzip"])
async def test_what_cannot_be_unpacked_fails_as_what_was_lost_on_its_way(
    provider: OpenAIProvider, server: MockProvider, ask: Ask, status: int, coding: str
) -> None:
    body = gzip.compress(gzip.compress(Reply().content()))[:-1]
    server.default = Reply(status=status, body=body, headers={"content-encoding": coding})
    with pytest.raises(ProviderFailure) as failure:
        await ask(provider)
    assert failure.value.spend == "uncertain" and len(server.calls) == 1


@ways
async def test_an_error_without_a_body_is_one_whatever_it_says_of_its_packing(
    provider: OpenAIProvider, server: MockProvider, ask: Ask
) -> None:
    server.default = Reply(status=401, body=b"", headers={"content-encoding": "GZIP"})
    with pytest.raises(ProviderFailure) as failure:
        await ask(provider)
    assert (failure.value.kind, failure.value.spend) == ("AuthenticationError", "none")


@ways
async def test_an_error_is_named_and_told_as_the_sdk_does(
    provider: OpenAIProvider, server: MockProvider, ask: Ask
) -> None:
    server.default = Reply(status=429, headers={"retry-after": "7"}, body={"error": {"message": "slow down"}})
    with pytest.raises(ProviderFailure) as failure:
        await ask(provider)
    assert len(server.calls) == 1, "it is not asked again to learn that"
    async with AsyncOpenAI(api_key=SECRET, base_url=server.url, max_retries=0) as sdk:
        with pytest.raises(openai.RateLimitError) as own:
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "x"}])
    assert (failure.value.kind, failure.value.detail) == ("RateLimitError", str(own.value))
    assert (failure.value.retry_after_s, failure.value.status) == (7.0, 429)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(drop="unanswered"), "APIConnectionError"),
        (Reply(drop="in the middle"), "APIConnectionError"),
        (Reply(delay_s=30), "APITimeoutError"),
        (Reply(text="x" * 99, drip_s=8), "APITimeoutError"),
    ],
)
async def test_a_lost_answer_is_named_as_the_sdk_does(
    provider: OpenAIProvider, server: MockProvider, reply: Reply, kind: str
) -> None:
    server.script(reply)
    with pytest.raises(ProviderFailure) as failure:
        await provider.call(replace(CALL, timeout_s=4))
    assert (failure.value.kind, failure.value.spend, len(server.calls)) == (kind, "uncertain", 1)
