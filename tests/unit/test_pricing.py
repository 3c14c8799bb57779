"""A reservation is a true bound: never below what the call can cost, and refused where there is no bound."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.decisions import BlockReason
from shared.events.tasks import Task, TaskType
from shared.money import from_cents
from shared.pricing import Quote, Refused, cost, quote

MODELS = ["gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-5", "gpt-5-nano", "o3"]


def task(model: str = "gpt-4o-mini", provider: str = "openai", max_cost: int = 0, **prompt: Any) -> Task:
    return Task(
        task_id=uuid4(),
        request_id="r",
        task_type=TaskType.ROUTE,
        provider=provider,
        model=model,
        prompt=prompt,
        fingerprint="f",
        max_cost=max_cost,
    )


def priced(one: Task) -> Quote:
    return quote(one, default_max_output_tokens=1024, unpriced_worst_case=None)


@settings(deadline=None)  # the first example loads the prices
@given(st.sampled_from(MODELS), st.text(max_size=200), st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1))
def test_no_usage_within_the_bounds_costs_more_than_the_quote(
    model: str, text: str, max_tokens: int, filled: float, cached: float
) -> None:
    one = task(model, messages=[{"role": "user", "content": text}], max_tokens=max_tokens)
    bound = priced(one)
    assert bound.max_output_tokens == max_tokens
    # A tokenizer makes at most one token of a byte, and the format adds a few for each message.
    most_input = len(text.encode()) + 12
    true = cost(
        "openai",
        model,
        int(most_input * filled),
        int(max_tokens * filled),
        cached_input_tokens=int(most_input * filled * cached),
    )
    assert true is not None and true <= bound.amount


@settings(deadline=None)
@given(st.integers(from_cents("0.05"), from_cents(5)))
def test_with_a_max_cost_the_output_is_limited_until_the_worst_case_fits(max_cost: int) -> None:
    """From just above what one token of output may cost; below that it is refused (see there)."""
    bound = priced(task("gpt-4o", max_cost=max_cost, input="hello", max_tokens=100_000))
    assert bound.amount <= max_cost and 1 <= (bound.max_output_tokens or 0) <= 100_000


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (task("no-such-model-4711"), BlockReason.UNPRICED),
        (task("no-such-model-4711", max_cost=from_cents(100)), BlockReason.UNPRICED),
        (task(provider="nowhere"), BlockReason.UNKNOWN_PROVIDER),
        (task("gpt-4o", max_cost=1, input="hello"), BlockReason.MAX_COST),
        (
            task(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]),
            BlockReason.UNPRICED,
        ),
        (task(messages=[{"role": "assistant", "audio": {"id": "a"}}]), BlockReason.UNPRICED),
        (task(input="x", modalities=["text", "audio"]), BlockReason.UNPRICED),
        (task(input="x", web_search_options={}), BlockReason.UNPRICED),
        (task(input="x", service_tier="priority"), BlockReason.UNPRICED),
        (task(input="x", service_tier="auto"), BlockReason.UNPRICED),
    ],
)
def test_what_cannot_be_bounded_is_refused(one: Task, reason: BlockReason) -> None:
    with pytest.raises(Refused) as refused:
        priced(one)
    assert refused.value.reason is reason


def test_several_choices_cost_several_times() -> None:
    one, three = priced(task(input="x", max_tokens=100)), priced(task(input="x", max_tokens=100, n=3))
    assert three.amount > 2 * one.amount


def test_a_configured_worst_case_stands_in_for_an_unknown_price() -> None:
    bound = quote(task("no-such-model-4711"), default_max_output_tokens=9, unpriced_worst_case=from_cents(50))
    assert bound == Quote(from_cents(50), 9)


def test_the_stub_says_what_it_costs() -> None:
    assert priced(task(provider="stub", simulated_cost_cents=0.25)).amount == from_cents("0.25")
    assert priced(task(provider="stub", simulated_cost_cents=7, max_cost=5)).amount == 5
    assert priced(task(provider="stub")).amount == 0


def test_true_costs_are_exact() -> None:
    # 1,000 tokens at 0.15 and 100 at 0.60 dollars a million: 0.00021 dollars, 0.021 cents.
    assert cost("openai", "gpt-4o-mini", 1000, 100) == from_cents("0.021")
    assert cost("openai", "gpt-4o-mini", 1, 0) == from_cents("0.000015")
    assert cost("openai", "no-such-model-4711", 1, 1) is None
