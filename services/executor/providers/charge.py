"""What a call cost, from the tokens that its answer states. Pure: counts are data, and may be anything."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from services.executor import storable
from services.executor.providers.protocol import Call
from shared.events.prices import Prices
from shared.price_list import Tokens, charge, find


@dataclass(frozen=True, slots=True)
class Charged:
    """A cost in nanocents, and what it was computed from. `cost` None: nobody knows it, and the hold is spent."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: int | None = None
    counts: dict[str, int] | None = None
    prices: Prices | None = None

    @property
    def is_known(self) -> bool:
        """Whether the answer said what it consumed."""
        return self.counts is not None


UNKNOWN = Charged()


def charged(call: Call, tokens: Tokens | None) -> Charged:
    """What these tokens cost by the prices of the decision, or by the published ones where it names none."""
    if tokens is None:
        return UNKNOWN
    prices = call.prices
    if prices is None:
        found = find({}, None, call.provider, call.model, int(time.time() * 1000), gives_text=False)
        prices = found.now if found is not None else None
    counts = tokens.named()
    cost = charge(prices, counts) if prices is not None else None
    return Charged(tokens.input, tokens.output, cost, counts, prices)


def count(value: Any) -> int | None:
    """A count of tokens; None for one that is absent or cannot be true."""
    plausible = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= storable.MAX_TOKENS
    return value if plausible else None
