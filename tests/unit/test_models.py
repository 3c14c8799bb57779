"""Which provider and model a name means."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.routing import price_lists_of, providers_of, resolve
from shared.settings import Settings

ROUTES = {"fast": "openai:gpt-4o-mini", "gpt-*": "openai", "*": "stub"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt-5", ("openai", "gpt-5")),
        ("fast", ("openai", "gpt-4o-mini")),
        ("anything", ("stub", "anything")),
        ("stub:gpt-5", ("stub", "gpt-5")),
        (None, ("stub", "model")),
    ],
)
def test_a_bare_name_goes_by_the_first_route_that_matches(name: str | None, meant: tuple[str, str]) -> None:
    assert resolve(name, Settings(model_routes=ROUTES, default_provider="stub"), {}) == meant


def test_further_providers_are_named_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    groq = '"groq": {"base_url": "https://groq.test/v1", "key_env": "GROQ_API_KEY"}'
    named = f'{{{groq}, "fast": {{"base_url": "http://x", "prices": "groq"}}}}'
    monkeypatch.setenv("SKELDIR_OPENAI_COMPATIBLE", named)
    settings = Settings()
    assert providers_of(settings) >= {"stub", "openai", "groq", "fast"}
    assert price_lists_of(settings) == {"fast": "groq"}


@pytest.mark.parametrize(
    "wrong",
    [
        '{"stub": {"base_url": "http://x"}}',
        '{"Up:per": {"base_url": "http://x"}}',
        '{"one": {"base_url": "file:///etc/passwd"}}',
        '{"one": {"base_url": "http://x", "api_key": "sk-in-the-open"}}',
        '{"one": {}}',
    ],
)
def test_a_wrong_one_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKELDIR_OPENAI_COMPATIBLE", wrong)
    with pytest.raises(ValidationError):
        Settings()
