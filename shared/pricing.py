"""What a call may cost at most, and what it did cost. Pure; prices from the snapshot in `genai-prices`.

The worst case takes the dearest of a model's tiers and price periods, as many input tokens as the prompt has bytes (no
tokenizer makes more tokens than bytes), and every output token that the call is limited to. So a reservation is a true
bound, and what cannot be bounded is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice, TieredPrices

from shared.events.decisions import BlockReason
from shared.events.tasks import Task
from shared.models import PROVIDERS, STUB
from shared.money import from_cents, from_dollars

# What chat formats add to the text: a few tokens a message, and a few for the answer's start.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_CALL = 64
MILLION = Decimal(1_000_000)
# `auto` may mean `priority` where the account is set so; these cost the listed price or less.
STANDARD_TIERS = (None, "default", "flex")
INPUT_RATES = ("input_mtok", "cache_write_mtok", "cache_read_mtok")


@dataclass(frozen=True, slots=True)
class Quote:
    """A true upper bound: `amount` nanocents, as long as at most `max_output_tokens` are asked for."""

    amount: int
    max_output_tokens: int | None


class Refused(ValueError):
    """The call cannot be bounded, or not within what its caller will pay."""

    def __init__(self, reason: BlockReason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Rates:
    """Dearest price of one token, in US dollars."""

    input: Decimal
    output: Decimal


def quote(task: Task, *, default_max_output_tokens: int, unpriced_worst_case: int | None) -> Quote:
    """The worst case of `task`. With a `max_cost` the output is limited so that the worst case fits it.

    Raises Refused: UNKNOWN_PROVIDER, UNPRICED (no price known, and no `unpriced_worst_case` in nanocents set), MAX_COST
    (even the input costs more than the caller will pay).
    """
    if task.provider not in PROVIDERS:
        raise Refused(BlockReason.UNKNOWN_PROVIDER, f"no provider {task.provider!r}: known are {sorted(PROVIDERS)}")
    if task.provider == STUB:
        return Quote(task.max_cost or from_cents(task.prompt.get("simulated_cost_cents", 0)), None)
    _refuse_unbounded(task.prompt)
    wanted = _output_tokens(task.prompt, default_max_output_tokens)
    choices = _positive(task.prompt.get("n"), 1)
    rates = _dearest(task.provider, task.model)
    if rates is None:
        if unpriced_worst_case is None:
            raise Refused(BlockReason.UNPRICED, f"no price is known for {task.provider}:{task.model}")
        return Quote(max(unpriced_worst_case, task.max_cost), wanted)
    fixed = rates.input * _input_tokens(task.prompt)
    each = rates.output * choices
    if task.max_cost and each:
        affordable = int((Decimal(task.max_cost) / Decimal(10**11) - fixed) / each)
        if affordable < 1:
            least = from_dollars(fixed + each)
            raise Refused(BlockReason.MAX_COST, f"one token of output may cost {least} nanocents, above max_cost_cents")
        wanted = min(wanted, affordable)
    return Quote(from_dollars(fixed + each * wanted), wanted)


def cost(
    provider: str, model: str, input_tokens: int, output_tokens: int, *, cached_input_tokens: int = 0
) -> int | None:
    """What a call cost, in nanocents rounded up; None where no price is known. The stub states its own cost."""
    usage = PricedUsage(
        input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=min(cached_input_tokens, input_tokens)
    )
    try:
        return from_dollars(calc_price(usage, model, provider_id=provider).total_price)
    except (LookupError, ValueError):
        return None


@lru_cache(maxsize=4096)
def _dearest(provider: str, model: str) -> _Rates | None:
    try:
        _, found = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    periods = [found.prices] if isinstance(found.prices, ModelPrice) else [one.prices for one in found.prices]
    inputs = [rate for prices in periods for name in INPUT_RATES for rate in _rates(prices, name)]
    outputs = [rate for prices in periods for rate in _rates(prices, "output_mtok")]
    if not inputs or not outputs:
        return None
    return _Rates(max(inputs) / MILLION, max(outputs) / MILLION)


def _rates(prices: ModelPrice, name: str) -> Iterable[Decimal]:
    price: Any = getattr(prices, name, None)
    if isinstance(price, TieredPrices):
        return [price.base, *(tier.price for tier in price.tiers)]
    return [] if price is None else [price]


def _refuse_unbounded(prompt: Mapping[str, Any]) -> None:
    """What costs by other measures than text tokens at the model's listed price."""
    messages = prompt.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") not in ("text", "refusal"):
                raise _unbounded(f"a part of type {part.get('type')!r}")
        if isinstance(message, dict) and message.get("audio") is not None:
            raise _unbounded("audio")
    if prompt.get("modalities") not in (None, ["text"]) or prompt.get("audio") is not None:
        raise _unbounded("audio")
    if prompt.get("web_search_options") is not None:
        raise _unbounded("a web search")
    if (tier := prompt.get("service_tier")) not in STANDARD_TIERS:
        raise _unbounded(f"service tier {tier!r}")


def _unbounded(what: str) -> Refused:
    return Refused(BlockReason.UNPRICED, f"what {what} costs cannot be bounded")


def _input_tokens(prompt: Mapping[str, Any]) -> int:
    messages = prompt.get("messages")
    count = len(messages) if isinstance(messages, list) else 1
    return len(orjson.dumps(prompt)) + TOKENS_PER_MESSAGE * count + TOKENS_PER_CALL


def _output_tokens(prompt: Mapping[str, Any], default: int) -> int:
    return _positive(prompt.get("max_completion_tokens"), _positive(prompt.get("max_tokens"), default))


def _positive(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default
