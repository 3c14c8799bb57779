"""What carries the SDK's requests says truly whether a request was sent: on that rests whether money may have gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from services.executor.providers.transport import Transport
from skeldir.embedded.process import free_port
from tests.integration.executor.conftest import NOBODY
from tests.mock_provider import MockProvider, Reply


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=Transport(), timeout=60) as found:
        yield found


async def ask(client: httpx2.AsyncClient, url: str, read_s: float = 60) -> httpx2.Response:
    timeout = httpx2.Timeout(60, read=read_s)
    return await client.post(f"{url}/chat/completions", json={"messages": []}, timeout=timeout)


async def test_who_cannot_be_reached_was_not_asked(client: httpx2.AsyncClient) -> None:
    with pytest.raises(httpx2.ConnectError):
        await ask(client, f"{NOBODY}/v1")
    with pytest.raises(httpx2.ConnectError):
        await ask(client, "http://no-such-host.invalid/v1")
    with pytest.raises(httpx2.UnsupportedProtocol):
        await ask(client, "gopher://127.0.0.1/v1")


@pytest.mark.parametrize(
    "reply", [Reply(drop="unanswered"), Reply(drop="in the middle"), Reply(delay_s=30), Reply(text="x" * 99, drip_s=8)]
)
async def test_who_does_not_answer_was_asked(client: httpx2.AsyncClient, reply: Reply) -> None:
    with MockProvider() as provider:
        provider.script(reply)
        with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.ReadTimeout)):
            await ask(client, provider.url, read_s=4)
        assert len(provider.calls) == 1, "asked once"


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again(client: httpx2.AsyncClient) -> None:
    port = free_port()
    for _ in range(3):
        provider = MockProvider()
        provider.port = port
        await asyncio.to_thread(provider.__enter__)
        assert (await ask(client, provider.url)).status_code == 200
        await asyncio.to_thread(provider.__exit__, None, None, None)


async def test_the_environments_proxy_is_taken(client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with MockProvider() as proxy:
        monkeypatch.setenv("http_proxy", proxy.origin)
        monkeypatch.setenv("no_proxy", "near.invalid")
        assert (await ask(client, "http://far.invalid/v1")).status_code == 200
        with pytest.raises(httpx2.ConnectError):
            await ask(client, "http://near.invalid/v1")
        assert [call.path for call in proxy.calls] == ["http://far.invalid/v1/chat/completions"]
