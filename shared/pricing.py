"""What a call may cost at most, and what it did cost. Pure; the prices come from `shared/price_list.py`.

The worst case takes the dearest of a model's tiers and price periods, as many input tokens as the prompt has bytes (no
tokenizer makes more tokens than bytes, ADR 16; an image counts by itself), and every output token that the call is
limited to. So a reservation is a true bound, and what cannot be bounded is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from msgspec import Struct

from shared.events.decisions import BlockReason
from shared.events.prices import Prices
from shared.events.tasks import Task
from shared.models import ANTHROPIC, GEMINI, OPENAI, PROVIDERS, STUB
from shared.money import MAX_NANOCENTS, from_cents, from_dollars, to_cents
from shared.price_list import Found, Overrides, Tokens, charge, dearest, find
from shared.unbounded import images, inline_image_bytes, items, what, what_of_response

# More than any limit on tokens.
MAX_TOKENS = 2**53
# What chat formats add to the text: a few tokens a message, and a few for the answer's start.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_CALL = 64
# Anthropic puts up to about 700 tokens of its own before tools, and others something before a schema.
TOKENS_FOR_TOOLS = 2048
# The most that a model counts one image as: gpt-4o-mini, 2,833 and eight tiles of 5,667. Others take far less.
TOKENS_PER_IMAGE = 50_000
# Who reads an image as one, or refuses it, and never reads the text that its bytes are written as. Of other servers
# that speak OpenAI's format nobody knows.
READS_IMAGES = frozenset({OPENAI, ANTHROPIC, GEMINI})
# How the rates of answers begin that are no text.
_NO_TEXT = ("output_image_", "output_audio_", "output_video_")


class Quote(Struct, frozen=True):
    """A true upper bound: `amount` nanocents, as long as at most `max_output_tokens` are asked for."""

    amount: int
    max_output_tokens: int | None
    prices: Prices | None = None


class Terms(Struct, frozen=True):
    """What a worst case depends on besides the task. Money in nanocents."""

    default_max_output_tokens: int
    unpriced_worst_case: int | None = None
    providers: frozenset[str] = PROVIDERS
    price_lists: Mapping[str, str] = {}
    """Whose published prices hold for a provider, where it is not its own name."""
    overrides: Overrides = {}
    tenant_id: UUID | None = None
    now_ms: int = 0
    max_cost: int | None = None
    """The bound of the task's type, beside the caller's own: the smaller holds."""


class Refused(ValueError):
    """The call cannot be bounded, or not within what its caller will pay."""

    def __init__(self, reason: BlockReason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


def cost(
    provider: str,
    model: str,
    input_tokens: int,
    output_tokens: int,
    *,
    cached_input_tokens: int = 0,
    prices: Prices | None = None,
    now_ms: int = 0,
) -> int | None:
    """What a call cost, in nanocents rounded up; None where no price is known. The stub states its own cost."""
    tokens = Tokens(input_tokens, output_tokens, cache_read=cached_input_tokens)
    if prices is None:
        found = find({}, None, provider, model, now_ms, gives_text=False)
        prices = found.now if found is not None else None
    return None if prices is None else charge(prices, tokens.named())


def quote(task: Task, terms: Terms) -> Quote:
    """The worst case of `task`. With a `max_cost`, the caller's or its type's, the output is limited so that it fits.

    Raises Refused: UNKNOWN_PROVIDER, UNPRICED (no price known, and no `unpriced_worst_case` set; or more than an amount
    can be), MAX_COST (even the input costs more than that).
    """
    if task.provider not in terms.providers:
        known = ", ".join(sorted(terms.providers))
        raise Refused(BlockReason.UNKNOWN_PROVIDER, f"no provider {task.provider!r}: known are {known}")
    if task.provider == STUB:
        states = from_cents(task.prompt.get("simulated_cost_cents", 0))
        return Quote(_within(terms, states, task.max_cost or states), None)
    unbounded = what_of_response(task.prompt) if task.operation == "responses" else what(task.prompt)
    if unbounded:
        raise Refused(BlockReason.UNPRICED, f"what {unbounded} costs cannot be bounded")
    body = orjson.dumps(task.prompt)
    wanted = output_tokens(task.prompt, terms.default_max_output_tokens)
    found = find(
        terms.overrides,
        terms.tenant_id,
        task.provider,
        task.model,
        terms.now_ms,
        long_cache=b'"1h"' in body,
        gives_text=task.operation != "embeddings",
        price_list=terms.price_lists.get(task.provider),
    )
    if found is None or task.model.endswith(":online"):
        if terms.unpriced_worst_case is None:
            raise Refused(BlockReason.UNPRICED, f"no price is known for {task.provider}:{task.model}")
        least = terms.unpriced_worst_case
        return Quote(_within(terms, least, max(least, task.max_cost)), wanted)
    if task.provider == GEMINI and (dear := [name for name in found.now.rates if name.startswith(_NO_TEXT)]):
        # It gives these unasked, at a rate that the bound of text does not know.
        raise Refused(BlockReason.UNPRICED, f"{task.model} gives more than text ({', '.join(dear)})")
    return _bounded(task, found, len(body), wanted, terms)


def _within(terms: Terms, least: int, wanted: int) -> int:
    """What is reserved where the output cannot be limited: no more than the type's bound, no less than it may cost."""
    if terms.max_cost is not None and least > terms.max_cost:
        raise Refused(BlockReason.MAX_COST, f"it may cost {least} nanocents, above {_whose(terms.max_cost, terms)}")
    return wanted if terms.max_cost is None else min(wanted, terms.max_cost)


def _bounded(task: Task, found: Found, prompt_bytes: int, wanted: int, terms: Terms) -> Quote:
    rates = found.dearest
    fixed = rates.call + rates.input * _input_tokens(task, prompt_bytes)
    each = rates.output * _positive(task.prompt.get("n"), 1)
    most = min((one for one in (task.max_cost, terms.max_cost) if one), default=0)
    if most and fixed + each:
        affordable = int((Decimal(most) / Decimal(10**11) - fixed) / each) if each else wanted
        if affordable < 1 or _countable(fixed) > most:
            least = _countable(fixed + each)
            problem = f"one token of output may cost {least} nanocents, above {_whose(most, terms)}"
            raise Refused(BlockReason.MAX_COST, problem)
        wanted = min(wanted, affordable)
    return Quote(_countable(fixed + each * wanted), wanted, found.now)


def _countable(dollars: Decimal) -> int:
    """A worst case in nanocents. Raises Refused where it is more than an amount can be: no reservation can hold it."""
    try:
        return from_dollars(dollars)
    except ValueError as error:
        problem = f"it may cost more than {to_cents(MAX_NANOCENTS)} cents, which is more than can be reserved"
        raise Refused(BlockReason.UNPRICED, problem) from error


def _whose(most: int, terms: Terms) -> str:
    return f"the {most} of its task type's bound" if most == terms.max_cost else "max_cost_cents"


def counted(task: Task, prices: Prices | None, output_tokens: int) -> int | None:
    """What a call cost at most (nanocents), by the prices of its decision, whose answer was cut after so many tokens;
    None where no price is known, or where that is more than an amount can be."""
    rates = None if prices is None else dearest(prices)
    if rates is None:
        return None
    prompt_tokens = _input_tokens(task, len(orjson.dumps(task.prompt)))
    try:
        return from_dollars(rates.call + rates.input * prompt_tokens + rates.output * output_tokens)
    except ValueError:
        return None


def most_tokens(task: Task, max_output_tokens: int | None) -> int:
    """The most tokens, input and output together, that the call can use when its output is limited so.

    The stub's answer comes from its prompt: its tokens, of four bytes each, are bounded by the bytes of that.
    """
    inputs = _input_tokens(task, len(orjson.dumps(task.prompt)))
    outputs = max_output_tokens or 0 if task.operation != "embeddings" else 0
    return min(inputs + outputs * _positive(task.prompt.get("n"), 1), MAX_TOKENS)


def _input_tokens(task: Task, prompt_bytes: int) -> int:
    prompt = task.prompt
    formatted = any(prompt.get(name) for name in ("tools", "functions", "response_format", "output_config"))
    added = formatted or isinstance(prompt.get("text"), dict)  # the format, of a response
    messages = TOKENS_PER_MESSAGE * max(1, len(items(prompt)))
    pictures = images(prompt)
    if pictures and task.provider in READS_IMAGES:
        prompt_bytes -= inline_image_bytes(prompt)
    return prompt_bytes + messages + TOKENS_PER_IMAGE * pictures + TOKENS_PER_CALL + TOKENS_FOR_TOOLS * added


def output_tokens(prompt: Mapping[str, Any], default: int) -> int:
    """How many tokens of output a prompt limits itself to; the default where it does not."""
    named = (prompt.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    return next((count for value in named if (count := _positive(value, 0))), default)


def _positive(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default
