"""Which prices hold for a model, and what tokens cost by them. Pure; published prices are the snapshot in
`genai-prices`, and an operator's (`price.set` on the control stream) come before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from uuid import UUID

import orjson
from genai_prices import Usage as PricedUsage
from genai_prices import __version__ as LIST_VERSION
from genai_prices.data_snapshot import get_snapshot
from genai_prices.data_units import unit_data
from genai_prices.types import ModelInfo, ModelPrice, Tier, TieredPrices

from shared.events.prices import Prices
from shared.models import GEMINI
from shared.money import from_dollars

ANY_MODEL = "*"
SOURCE = f"genai-prices {LIST_VERSION}"
MILLION = Decimal(1_000_000)
THOUSAND = Decimal(1000)
CALL_RATE = "requests_kcount"
# Each of the usual counts, and the one that holds it.
_WITHIN = {
    "input_tokens": "input_tokens",
    "cache_read_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "output_reasoning_tokens": "output_tokens",
}
EXACT_DIGITS = 12
# Under which name the published list has a provider, where that is not its own.
LISTED_AS = {GEMINI: "google"}

Overrides = Mapping[tuple[UUID | None, str, str], Prices]
"""Prices that operators set, by tenant (None: every tenant), provider and model (or `*`)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a call consumed. `input` and `output` include the others."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    """Of `cache_write`, those kept for an hour."""
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0

    def named(self) -> dict[str, int]:
        """The counts by genai-prices' names, without zeros. An inner count never exceeds what holds it."""
        write = min(self.cache_write, max(0, self.input - self.cache_read))
        counts = {
            "input_tokens": self.input,
            "output_tokens": self.output,
            "cache_read_tokens": min(self.cache_read, self.input),
            "cache_write_tokens": write,
            "cache_write_1h_tokens": min(self.cache_write_1h, write),
            "output_reasoning_tokens": min(self.reasoning, self.output),
            "input_audio_tokens": min(self.input_audio, self.input),
            "output_audio_tokens": min(self.output_audio, self.output),
        }
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True, slots=True)
class Dearest:
    """The dearest that holds over all tiers and times of day, in US dollars."""

    input: Decimal
    """For one token of text."""
    output: Decimal
    call: Decimal


@dataclass(frozen=True, slots=True)
class Found:
    """The prices that hold now, and the dearest that may hold before the call ends."""

    now: Prices
    dearest: Dearest


def find(
    overrides: Overrides,
    tenant_id: UUID | None,
    provider: str,
    model: str,
    now_ms: int,
    *,
    long_cache: bool = True,
    gives_text: bool = True,
    price_list: str | None = None,
) -> Found | None:
    """The prices of a model for a tenant; None where none is known. A tenant's own come first, then everybody's.

    `price_list`: the provider whose published prices hold; None: that of the same name.

    `long_cache`: whether the caller asks for a cache of an hour, which costs more to write. `gives_text`: whether it
    pays for output (embeddings have none).
    """
    for owner in (tenant_id, None):
        for name in (model, ANY_MODEL):
            if (override := overrides.get((owner, provider, name))) is not None:
                return Found(override, _dearest([_model_price(override)], long_cache, gives_text))
    listed = _listed(price_list or LISTED_AS.get(provider, provider), model, long_cache, gives_text)
    if listed is None:
        return None
    info, periods, bound = listed
    prices = periods[0]
    if len(periods) > 1:
        now = info.get_prices(datetime.fromtimestamp(now_ms / 1000, UTC))
        prices = next(one for one in periods if one[0] is now)
    return Found(prices[1], bound)


def charge(prices: Prices, counts: Mapping[str, int]) -> int | None:
    """What these tokens cost, in nanocents rounded up; None where the prices do not say. Exact, and repeatable."""
    rates = orjson.dumps(prices.rates)
    try:
        if _is_plain(counts) and (line := _line(rates, frozenset(counts))) is not None:
            call, tokens = line
            return from_dollars(call + sum(count * tokens[name] for name, count in counts.items()))
        return from_dollars(_total(_price_of(rates), counts))
    except (LookupError, ValueError):
        return None


def _total(price: ModelPrice, counts: Mapping[str, int]) -> Decimal:
    return price.calc_price(PricedUsage(**counts))["total_price"]


def _is_plain(counts: Mapping[str, int]) -> bool:
    """Whether these counts are of the usual kinds, and can be true together: then what they cost is a line."""
    return all(0 < count <= counts.get(_WITHIN.get(name, ""), 0) for name, count in counts.items())


@lru_cache(maxsize=1024)
def _line(rates: bytes, names: frozenset[str]) -> tuple[Decimal, dict[str, Decimal]] | None:
    """What a call costs, and each token of these names; None where that is no line, or has too many digits for it.

    genai-prices takes ten times the CPU for a price. Without tiers that is a line in the counts, so it is asked at a
    point of it and at that point's neighbours.
    """
    price = _price_of(rates)
    if any(isinstance(rate, TieredPrices) or len(str(rate)) > EXACT_DIGITS for rate in vars(price).values()):
        return None
    some = {name: 2 if _WITHIN[name] == name else 1 for name in names}
    cost = _total(price, some)
    tokens = {name: _total(price, {**some, name: some[name] + 1}) - cost for name in names}
    return cost - sum(some[name] * tokens[name] for name in names), tokens


@lru_cache(maxsize=4096)
def _listed(
    provider: str, model: str, long_cache: bool, gives_text: bool
) -> tuple[ModelInfo, list[tuple[ModelPrice, Prices]], Dearest] | None:
    """A published model: its prices by time of day, and the dearest of them. The list is fixed while we run."""
    try:
        snapshot = get_snapshot()
        # By its exact name: the list's own search takes `my-openai` for OpenAI.
        exact = next((one for one in snapshot.providers if one.id == provider), None)
        if exact is None:
            return None
        _, info = snapshot.find_provider_model(model, exact, None, None)
        periods = [info.prices] if isinstance(info.prices, ModelPrice) else [one.prices for one in info.prices]
        return info, [(one, _recorded(one)) for one in periods], _dearest(periods, long_cache, gives_text)
    except LookupError:
        return None


def dearest(prices: Prices) -> Dearest | None:
    """The dearest of these prices; None where they bound nothing."""
    try:
        return _dearest([_model_price(prices)], long_cache=True, gives_text=True)
    except LookupError:
        return None


def _dearest(periods: list[ModelPrice], long_cache: bool, gives_text: bool) -> Dearest:
    """Raises LookupError where a side has no price, or costs by a measure that nobody bounds beforehand."""
    rates: dict[str, list[Decimal]] = {"input": [], "output": []}
    calls = [Decimal(0)]
    for prices in periods:
        for unit in unit_data.values():
            price = getattr(prices, unit["price_key"])
            if price is None:
                continue
            if unit["price_key"] == CALL_RATE:
                calls += _steps(price)
            elif _may_be_charged(unit["dimensions"], long_cache):
                rates[unit["dimensions"]["direction"]] += _steps(price)
    if not rates["input"] or (gives_text and not rates["output"]):
        raise LookupError("no price of a token")
    output = max(rates["output"], default=Decimal(0))
    return Dearest(max(rates["input"]) / MILLION, output / MILLION, max(calls) / THOUSAND)


def _may_be_charged(dimensions: Mapping[str, str], long_cache: bool) -> bool:
    """Whether a call that asks for text only may be charged in this unit."""
    if dimensions.get("family") != "tokens" or dimensions.get("direction") not in ("input", "output"):
        return False
    if dimensions.get("token_type") == "citation":
        raise LookupError("tokens of citations are not bounded by max_tokens")
    return dimensions.get("modality", "text") == "text" and (long_cache or dimensions.get("cache_ttl") != "1h")


def _steps(price: Decimal | TieredPrices) -> list[Decimal]:
    return [price.base, *(tier.price for tier in price.tiers)] if isinstance(price, TieredPrices) else [price]


def _recorded(prices: ModelPrice) -> Prices:
    found: dict[str, str | list[tuple[int, str]]] = {}
    for name, price in vars(prices).items():
        if isinstance(price, TieredPrices):
            found[name] = [(0, str(price.base)), *((tier.start, str(tier.price)) for tier in price.tiers)]
        elif price is not None:
            found[name] = str(price)
    return Prices(source=SOURCE, rates=found)


def _model_price(prices: Prices) -> ModelPrice:
    return _price_of(orjson.dumps(prices.rates))


@lru_cache(maxsize=1024)
def _price_of(rates: bytes) -> ModelPrice:
    found: dict[str, Decimal | TieredPrices | None] = {}
    for name, rate in orjson.loads(rates).items():
        if isinstance(rate, str):
            found[name] = Decimal(rate)
        else:
            (_, base), *tiers = rate
            found[name] = TieredPrices(Decimal(base), [Tier(start, Decimal(price)) for start, price in tiers])
    return ModelPrice(**found)
