"""The prices of one model, as they are recorded with the decision and with the call that they were used for."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_RATE = Decimal(1_000_000)


def _exact(text: str) -> str:
    """The decimal as it stands. Raises ValueError for what is no amount of money."""
    try:
        rate = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"not a decimal number: {text!r}") from error
    if not rate.is_finite() or not 0 <= rate <= MAX_RATE:
        raise ValueError(f"a price is between 0 and {MAX_RATE} US dollars, not {text!r}")
    return text


Rate = Annotated[str, Field(max_length=40), AfterValidator(_exact)]
"""US dollars, an exact decimal as text."""


class Prices(BaseModel):
    """What a call is charged by. With the tokens beside it, its cost can be computed again, to the nanocent."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="`genai-prices <version>`, or `control <entry id>` where an operator set it.")
    rates: dict[str, Rate | list[tuple[int, Rate]]] = Field(
        description="US dollars by genai-prices' names (`input_mtok`: a million tokens of input). A list has tiers: "
        "pairs of the number of input tokens above which a price holds, and that price."
    )
