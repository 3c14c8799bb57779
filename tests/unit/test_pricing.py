"""A reservation is a true bound: never below what the call can cost, and refused where there is no bound."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.control_state import ControlState, evolve
from shared.events.control import InvalidControl, entry_ms, parse_control
from shared.events.decisions import BlockReason
from shared.events.prices import Prices
from shared.events.tasks import Task, TaskType
from shared.money import from_cents, from_dollars
from shared.price_list import Tokens, _model_price, _total, charge, find
from shared.pricing import Quote, Refused, Terms, cost, counted, most_tokens, quote

START_MS = 1_790_000_000_000
LISTED = frozenset({"stub", "openai", "anthropic", "google"})
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
    return quote(one, Terms(default_max_output_tokens=1024, providers=LISTED))


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
            task(messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]),
            BlockReason.UNPRICED,
        ),
        (task(messages=[{"role": "assistant", "audio": {"id": "a"}}]), BlockReason.UNPRICED),
        (task(input="x", modalities=["text", "audio"]), BlockReason.UNPRICED),
        (task(input="x", web_search_options={}), BlockReason.UNPRICED),
        (task(input="x", service_tier="priority"), BlockReason.UNPRICED),
        (task(input="x", service_tier="auto"), BlockReason.UNPRICED),
        (task(messages=[{"role": "user", "content": [{"type": {"of": "none"}}]}]), BlockReason.UNPRICED),
        (task(input=[{"type": ["message"]}]).model_copy(update={"operation": "responses"}), BlockReason.UNPRICED),
        (task(input="x", max_tokens=2**63, n=2**63), BlockReason.UNPRICED),
        (task(input="x", n=2**63, max_cost=from_cents(1)), BlockReason.UNPRICED),
    ],
)
def test_what_cannot_be_bounded_is_refused(one: Task, reason: BlockReason) -> None:
    with pytest.raises(Refused) as refused:
        priced(one)
    assert refused.value.reason is reason


def test_what_says_its_type_by_no_word_is_counted_all_the_same() -> None:
    """On the stub nothing is refused, and a quota of tokens counts all the same."""
    messages = [{"role": "user", "content": [{"type": {}, "text": "x"}]}]
    assert most_tokens(task(provider="stub", messages=messages), None) >= len(orjson.dumps({"messages": messages}))


def test_more_output_than_an_amount_can_pay_is_of_no_known_cost() -> None:
    one = task(input="x")
    assert counted(one, priced(one).prices, 2**63) is None


def test_several_choices_cost_several_times() -> None:
    one, three = priced(task(input="x", max_tokens=100)), priced(task(input="x", max_tokens=100, n=3))
    assert three.amount > 2 * one.amount


def test_an_image_is_bounded_by_the_most_that_a_model_counts_one_as() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    messages = [{"role": "user", "content": [picture, picture]}]
    # gpt-4o-mini counts an image as up to 2,833 tokens and eight tiles of 5,667.
    true = cost("openai", "gpt-4o-mini", 2 * (2833 + 8 * 5667) + 20, 10)
    assert true is not None and true <= priced(task(messages=messages, max_tokens=10)).amount


INLINE = "data:image/png;base64," + "A" * 100_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": INLINE}},
        {"type": "input_image", "image_url": INLINE},
        {"type": "image_url", "image_url": {"url": INLINE + "\u00e9\u0000"}},
    ],
)
def test_the_bytes_of_an_inline_image_are_no_text(part: dict[str, Any]) -> None:
    """It counts as an image. Only a provider that is known to read images as such: another may read the text."""
    linked = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}

    def asked(one: dict[str, Any], provider: str = "openai", **more: Any) -> Quote:
        text = {"type": "text", "text": "what is it?"}
        messages = [{"role": "user", "content": [text, one]}]
        return priced(task("gpt-4o", provider, messages=messages, max_tokens=10, **more))

    inline, link, empty = asked(part), asked(linked), asked({**linked, "image_url": {}})
    assert empty.amount <= inline.amount <= link.amount * 1.01
    also_as_text = asked(part, user=INLINE)
    assert also_as_text.amount > inline.amount + 100_000, "only what stands in an image is left out"


def test_another_server_may_read_an_inline_image_as_text() -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": INLINE}}]}]
    one = task("gpt-4o", "openai", messages=messages, max_tokens=10)
    elsewhere = one.model_copy(update={"provider": "elsewhere"})
    assert most_tokens(elsewhere, 10) == most_tokens(one, 10) + len(INLINE)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": INLINE},
        {"type": "image_url", "text": INLINE},
        {"type": "image_url", "image_url": {"url": INLINE.replace("image/png", "text/plain")}},
    ],
)
def test_what_is_no_image_counts_by_its_bytes(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part]}]
    assert most_tokens(task("gpt-4o", messages=messages), 0) > len(INLINE)


def test_embeddings_cost_their_input_alone() -> None:
    one = task("text-embedding-3-small", input=["hello", "you"]).model_copy(update={"operation": "embeddings"})
    true = cost("openai", "text-embedding-3-small", 20, 0)
    assert true is not None and true <= priced(one).amount
    with pytest.raises(Refused):
        priced(task("text-embedding-3-small", input="a model without text to sell"))


def test_what_a_cut_answer_cost_is_never_counted_too_low_nor_above_its_bound() -> None:
    one = task(input="hello", max_tokens=100)
    true, bound = cost("openai", "gpt-4o-mini", 5, 40), priced(one)
    most = counted(one, bound.prices, 40)
    assert true is not None and most is not None and true <= most <= bound.amount
    assert counted(one, bound.prices, 100) == bound.amount
    assert counted(one, None, 1) is None


def test_a_configured_worst_case_stands_in_for_an_unknown_price() -> None:
    bound = quote(task("no-such-model-4711"), Terms(9, from_cents(50)))
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


OWN = {"input_mtok": "0.1", "output_mtok": "0.3"}


def overridden(tenant: UUID | None, model: str, rates: dict[str, Any] | None, before: ControlState) -> ControlState:
    scope = {"provider": "openai", "model": model} | ({"tenant_id": str(tenant)} if tenant else {})
    order = orjson.dumps({"type": "price.set", "scope": scope, "rates": rates})
    return evolve(before, f"{entry_ms(before.position) + 1}-0", parse_control(order))


def terms(control: ControlState, tenant: UUID, now_ms: int = 0) -> Terms:
    return Terms(1024, overrides=control.prices, tenant_id=tenant, now_ms=now_ms)


def test_a_tenants_price_comes_before_everybodys_and_that_before_the_published_one() -> None:
    one, other, model = uuid4(), uuid4(), "gpt-4o-mini"
    control = overridden(None, "*", {**OWN, "requests_kcount": 1}, ControlState())
    control = overridden(one, model, OWN, control)
    mine, theirs = quote(task(input="x"), terms(control, one)), quote(task(input="x"), terms(control, other))
    assert mine.prices == Prices(source="control 2-0", rates=OWN)
    assert theirs.prices is not None and theirs.prices.source == "control 1-0"
    assert theirs.amount - mine.amount == from_cents("0.1"), "a thousand calls are a dollar: this is one"
    back = overridden(one, model, None, overridden(None, "*", None, control))
    assert quote(task(input="x"), terms(back, one)).prices == quote(task(input="x"), Terms(1024)).prices


@pytest.mark.parametrize(
    "rates",
    [
        {"input_mtok": "1"},
        {"output_mtok": "1"},
        {"input_mtok": "-1", "output_mtok": "1"},
        {"input_mtok": "NaN", "output_mtok": "1"},
        {"input_mtok": "free", "output_mtok": "1"},
        {"input_mtok": "1", "output_mtok": "1", "surprise_mtok": "1"},
    ],
)
def test_half_a_price_is_no_price(rates: dict[str, str]) -> None:
    with pytest.raises(InvalidControl):
        overridden(None, "gpt-4o", rates, ControlState())


def test_a_model_that_nobody_lists_costs_what_an_operator_says_zero_included() -> None:
    control = overridden(None, "own-model", {"input_mtok": 0, "output_mtok": 0}, ControlState())
    bound = quote(task("own-model", input="x"), terms(control, uuid4()))
    assert bound.amount == 0 and bound.prices is not None and charge(bound.prices, {"input_tokens": 10**6}) == 0


@settings(deadline=None)
@given(
    st.sampled_from([("anthropic", "claude-sonnet-4-5"), ("google", "gemini-2.5-pro"), ("openai", "gpt-5")]),
    st.integers(0, 400_000),
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
)
@example(("anthropic", "claude-haiku-4-5"), 10_000, [0, 1, 1, 0, 1])  # all of it written for an hour
def test_no_split_of_the_tokens_costs_more_than_the_bound(
    named: tuple[str, str], size: int, parts: list[float]
) -> None:
    """Over tiers, cache reads and writes (an hour's too), and reasoning."""
    asked: dict[str, Any] = {
        "text": "x" * size,
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
        "max_tokens": 3000,
    }
    bound = priced(task(named[1], named[0], **asked))
    read, write, hour, reasoning, filled = parts
    inputs = int((size + 64) * filled)
    tokens = Tokens(
        inputs,
        3000,
        cache_read=int(inputs * read),
        cache_write=int(inputs * write),
        cache_write_1h=int(inputs * hour),
        reasoning=int(3000 * reasoning),
    )
    assert bound.prices is not None
    true = charge(bound.prices, tokens.named())
    assert true is not None and true <= bound.amount


@settings(deadline=None)
@given(st.data())
def test_what_is_charged_is_the_published_lists_own_sum(data: st.DataObject) -> None:
    """Whatever is counted, and by whichever prices: those of a model in the list, or an operator's."""
    snapshot = get_snapshot()
    provider = data.draw(st.sampled_from([one for one in snapshot.providers if one.models]))
    rates = st.decimals(0, 100, places=data.draw(st.integers(0, 14))).map(str)
    own = Prices(source="own", rates={name: data.draw(rates) for name in ("input_mtok", "output_mtok")})
    found = find({}, None, provider.id, data.draw(st.sampled_from(provider.models)).id, START_MS, gives_text=False)
    count = st.integers(0, 2**31 - 1)
    names = ("input", "output", "cache_read", "cache_write", "reasoning")
    counts = Tokens(**{name: data.draw(count) for name in names if data.draw(st.booleans())}).named()
    for prices in (own, *([found.now] if found else ())):
        try:
            by_list: int | None = from_dollars(_total(_model_price(prices), counts))
        except (LookupError, ValueError):
            by_list = None
        assert charge(prices, counts) == by_list


def test_counts_that_cannot_be_true_together_are_no_charge() -> None:
    counts = {"input_tokens": 10, "cache_read_tokens": 11, "output_tokens": 1}
    rates: dict[str, Any] = {"input_mtok": "1", "cache_read_mtok": "0.1", "output_mtok": "1"}
    prices = Prices(source="own", rates=rates)
    assert charge(prices, {**counts, "cache_read_tokens": 10}) == from_cents("0.0002")
    assert charge(prices, counts) is None


def test_recorded_prices_give_the_same_cost_again() -> None:
    bound = priced(task("claude-sonnet-4-5", "anthropic", input="x"))
    assert bound.prices is not None
    again = Prices.model_validate_json(bound.prices.model_dump_json())
    # 300,000 tokens are in the dearer tier, all of them: 6 and 22.50 dollars a million; 12 for an hour's cache.
    counts = Tokens(300_000, 1000, cache_write=1000, cache_write_1h=1000).named()
    assert charge(again, counts) == from_cents("179.4") + from_cents("1.2") + from_cents("2.25")


def test_a_price_by_the_time_of_day_is_bounded_by_the_dearest() -> None:
    noon, night = 12 * 3_600_000, 20 * 3_600_000
    known = frozenset({"deepseek"})
    day, off = (
        quote(task("deepseek-chat", "deepseek", input="x"), Terms(1024, providers=known, now_ms=now))
        for now in (noon, night)
    )
    assert day.amount == off.amount and day.prices != off.prices


@pytest.mark.parametrize(
    "asked",
    [
        {"models": ["openai/o1-pro"]},
        {"plugins": [{"id": "web"}]},
        {"tools": [{"type": "web_search_20250305"}]},
        {"tools": [{"googleSearch": {}, "type": "google"}]},
        {"speed": "fast"},
        {"cached_content": "cachedContents/1"},
    ],
)
def test_what_a_field_may_add_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        priced(task(input="x", **asked))


def test_a_named_provider_charges_by_the_list_of_its_exact_name_or_the_one_it_is_given() -> None:
    known = frozenset({"groq", "fast", "my-openai"})
    model = "llama-3.3-70b-versatile"

    def amount(provider: str, model: str, **lists: str) -> int:
        return quote(task(model, provider, input="x"), Terms(1024, providers=known, price_lists=lists)).amount

    assert amount("groq", model) == amount("fast", model, fast="groq") > 0
    for provider, name in (("fast", model), ("my-openai", "gpt-4o-mini")):
        with pytest.raises(Refused) as refused:
            amount(provider, name)
        assert refused.value.reason is BlockReason.UNPRICED


@pytest.mark.parametrize("model", ["gemini-2.5-flash-image", "gemini-live-2.5-flash", "gemini-omni-flash-preview"])
def test_a_model_of_google_that_draws_or_speaks_unasked_is_refused(model: str) -> None:
    with pytest.raises(Refused) as refused:
        quote(task(model, "gemini", input="a cat"), Terms(1024))
    assert refused.value.reason is BlockReason.UNPRICED
    assert quote(task("gemini-2.5-flash", "gemini", input="a cat"), Terms(1024)).amount > 0
