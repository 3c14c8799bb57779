"""Which provider and model a name means."""

from __future__ import annotations

import pytest

from shared.models import resolve
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
