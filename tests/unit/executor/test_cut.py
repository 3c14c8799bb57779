"""What a cut stream is charged: what came, or the most that can have been made where a model thinks unseen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast
from uuid import uuid4

import pytest

from services.executor import ends
from services.executor.streaming import CLIENT_LEFT, Cut, Streaming
from shared.events.outcomes import TaskFailed
from shared.events.prices import Prices
from shared.price_list import find
from tests.unit.executor.given import NOW_MS, delivery

BOUND = 5_000
EFFORT, DISABLED = {"output_config": {"effort": "high"}}, {"thinking": {"type": "disabled"}}


def prices_of(provider: str, model: str) -> Prices:
    found = find({}, None, provider, model, NOW_MS, gives_text=False)
    assert found is not None
    return found.now


PRICED = {"anthropic": "claude-haiku-4-5", "openai": "gpt-4o-mini", "gemini": "gemini-2.5-flash"}


def cut(provider: str, model: str, prompt: dict[str, Any], *, bound: int | None = BOUND, stated: int = 0) -> TaskFailed:
    one = delivery(provider=provider, model=model, prompt={"input": "hello", **prompt}, stream=True)
    prices = prices_of(provider, PRICED[provider])
    reserved = one.allowed.reservation.model_copy(update={"amount": 10**12})
    allowed = one.allowed.model_copy(update={"prices": prices, "max_output_tokens": bound, "reservation": reserved})
    streaming = Streaming(cast("Any", None), "", uuid4(), lambda: None, bound)
    streaming.count.add({"choices": [{"delta": {"content": "hi"}}]})
    if stated:
        streaming.count.add({"choices": [], "usage": {"completion_tokens": stated}})
    return ends.cut(replace(one, allowed=allowed), 1, Cut(CLIENT_LEFT, "nobody listened any more"), streaming, 5)


@pytest.mark.parametrize(
    ("model", "prompt", "is_bound"),
    [
        ("claude-mythos-9", {}, True),
        ("claude-opus-4-7", {}, True),
        ("claude-mythos-9", DISABLED, False),
        ("claude-haiku-4-5", {}, False),
        ("claude-opus-4-20250514", {}, False),
        ("claude-haiku-4-5", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, True),
        ("claude-sonnet-4-6", EFFORT, True),
    ],
)
def test_what_may_have_been_thought_is_charged_up_to_the_bound(
    model: str, prompt: dict[str, Any], is_bound: bool
) -> None:
    end = cut("anthropic", model, prompt)
    assert end.spend == "certain" and end.usage.cost > 0
    assert (end.usage.output_tokens == BOUND) == is_bound and (end.usage.output_tokens < 100) != is_bound


def test_what_the_provider_has_said_is_charged_in_place_of_the_bound() -> None:
    assert 300 <= cut("anthropic", "claude-mythos-9", {}, stated=300).usage.output_tokens < BOUND


def test_without_a_bound_or_from_another_provider_it_is_uncertain() -> None:
    ends_ = [cut("anthropic", "claude-mythos-9", {}, bound=None), cut("openai", "gpt-5-mini", {})]
    ends_ += [cut("gemini", "gemini-2.5-pro", {}), cut("gemini", "gemini-2.0-flash", EFFORT)]
    assert [(end.spend, end.usage.cost) for end in ends_] == [("uncertain", 0)] * 4
    assert cut("gemini", "gemini-2.0-flash", {}).spend == "certain"  # it does not think unless it is asked to
