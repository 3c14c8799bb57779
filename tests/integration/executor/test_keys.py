"""Several keys for one provider, and further providers that speak OpenAI's format, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shared.events.outcomes import TaskFailed, TaskSucceeded
from shared.models import CompatibleProvider
from tests.integration.executor.conftest import Bench
from tests.mock_provider import MockProvider, Reply

HELLO: dict[str, Any] = {"input": "hello"}
KEYS = ["first-0123456789", "second-0123456789"]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockProvider]:
    with MockProvider() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", ",".join(KEYS))
        yield running


def keys_of(provider: MockProvider) -> list[str]:
    return [call.headers["authorization"].removeprefix("Bearer ") for call in provider.calls]


async def test_a_refused_key_is_followed_by_the_next_each_with_its_own_record(
    bench: Bench, provider: MockProvider
) -> None:
    provider.script(Reply(status=401, body={"error": {"message": f"no such key: {KEYS[0]}"}}), Reply(text="second"))
    await bench.allow(HELLO, provider="openai", model="gpt-4o-mini")
    async with bench.executor():
        end = await bench.end(TaskSucceeded)
    assert end.output_text == "second" and keys_of(provider) == KEYS
    assert len(await bench.outcomes("attempt.started")) == 2


async def test_when_every_key_is_refused_the_task_says_so_and_names_none(bench: Bench, provider: MockProvider) -> None:
    provider.default = Reply(status=403, body={"error": {"message": f"{KEYS[0]} and {KEYS[1]} are no good"}})
    await bench.allow(HELLO, provider="openai", model="gpt-4o-mini")
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, end.spend, len(provider.calls)) == ("provider_error:PermissionDeniedError", "none", 2)
    assert "no good" in end.detail and not any(key in end.detail for key in KEYS)


async def test_a_named_provider_has_its_own_address_and_key_and_hears_nothing_meant_for_openai(
    bench: Bench, provider: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "of-groq")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-ours")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Ours: secret")
    with MockProvider() as groq:
        named = CompatibleProvider(base_url=groq.url, key_env="GROQ_API_KEY")
        local = CompatibleProvider(base_url=groq.url)
        missing = CompatibleProvider(base_url=groq.url, key_env="NOT_SET_ANYWHERE")
        await bench.allow(HELLO, provider="groq", model="llama-3.3-70b")
        await bench.allow(HELLO, provider="local", model="llama3")
        await bench.allow(HELLO, provider="missing", model="llama3")
        async with bench.executor(openai_compatible={"groq": named, "local": local, "missing": missing}):
            ends = {event.data.task.provider: event.data for event in await bench.ends(3)}  # type: ignore[attr-defined]
    assert isinstance(ends["groq"], TaskSucceeded) and isinstance(ends["local"], TaskSucceeded)
    assert isinstance(ends["missing"], TaskFailed) and "NOT_SET_ANYWHERE" in ends["missing"].detail
    assert sorted(keys_of(groq)) == ["none", "of-groq"] and not provider.calls
    sent = " ".join(f"{name}:{value}" for call in groq.calls for name, value in call.headers.items())
    assert not any(ours in sent for ours in ("org-ours", "proj-ours", "x-ours", *KEYS))
