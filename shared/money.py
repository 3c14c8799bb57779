"""Exact money: integers of nanocents.

One nanocent is 1e-9 cent, which is 1e-11 US dollar: any price with up to five decimals of dollars per million tokens
is a whole number of nanocents a token, so sums never round. An amount that is finer still is rounded up, against us.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal
from typing import Annotated

from pydantic import Field

NANOCENTS_PER_CENT = 1_000_000_000

# Below 2**53, so that no JSON reader that keeps numbers as doubles (Lua, JavaScript) changes an amount. 90,071 dollars.
MAX_NANOCENTS = 2**53 - 1
MAX_CENTS = MAX_NANOCENTS // NANOCENTS_PER_CENT


Nanocents = Annotated[int, Field(ge=0, le=MAX_NANOCENTS, description="Amount in nanocents (1e-9 cent).")]
# Of amounts that are each within the bound; a call may be charged more than its cap has left, and a sum has no bound.
NanocentSum = Annotated[int, Field(ge=0, description="Sum of amounts in nanocents (1e-9 cent); it may pass 2**53.")]

_EXACT = Context(prec=60, rounding=ROUND_CEILING)
_PER_CENT = Decimal(NANOCENTS_PER_CENT)


def from_cents(cents: Decimal | int | float | str) -> int:
    """Nanocents in `cents`; a float counts as the decimal it prints as; what is finer than a nanocent rounds up.

    Raises ValueError for an amount that is negative, not finite, or above MAX_NANOCENTS.
    """
    if cents == 0:
        return 0
    try:
        amount = Decimal(str(cents)) if isinstance(cents, float) else Decimal(cents)
    except ArithmeticError as error:
        raise ValueError(f"not an amount of cents: {cents!r}") from error
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"an amount of cents is finite and not negative, not {cents!r}")
    # Compared before it is multiplied: 1e999999999 is a Decimal, and its product is an error of another kind.
    if amount > to_cents(MAX_NANOCENTS):
        raise ValueError(f"an amount of cents is at most {to_cents(MAX_NANOCENTS)}, not {cents!r}")
    return int(_EXACT.multiply(amount, _PER_CENT).to_integral_value(rounding=ROUND_CEILING))


def sum_from_cents(cents: Decimal) -> int:
    """Nanocents in a sum as the books have it, however much that is: exact, and never finer than a nanocent."""
    return int(_EXACT.multiply(cents, _PER_CENT))


def from_dollars(dollars: Decimal) -> int:
    """Nanocents in an exact amount of US dollars, rounded up where it is finer than a nanocent."""
    return from_cents(_EXACT.multiply(dollars, Decimal(100)))


def to_cents(nanocents: int) -> Decimal:
    """The exact amount in cents, without trailing zeros (`Decimal('3')`, `Decimal('0.0105')`)."""
    whole, rest = divmod(nanocents, NANOCENTS_PER_CENT)
    return _EXACT.divide(Decimal(nanocents), _PER_CENT).normalize(_EXACT) if rest else Decimal(whole)
