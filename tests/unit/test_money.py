"""Money is exact, and what is no amount is a ValueError, whatever it is."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money import MAX_NANOCENTS, NANOCENTS_PER_CENT, from_cents, sum_from_cents, to_cents


@given(st.integers(0, MAX_NANOCENTS))
def test_an_amount_survives_the_way_to_cents_and_back(nanocents: int) -> None:
    assert from_cents(to_cents(nanocents)) == nanocents


@given(st.integers(0, 10**30))
def test_a_sum_survives_it_however_large_it_is(nanocents: int) -> None:
    assert sum_from_cents(to_cents(nanocents)) == nanocents


@given(st.decimals(0, 9_000_000, allow_nan=False, places=14))
def test_what_is_finer_than_a_nanocent_rounds_up(cents: Decimal) -> None:
    exact = cents * NANOCENTS_PER_CENT
    assert exact <= from_cents(cents) < exact + 1


@pytest.mark.parametrize(
    "cents", ["1e999999999", "1e5000000", "9007199.2547409911", "-1", "-1e-999999999", "NaN", "inf", "x", ""]
)
def test_what_is_no_amount_is_a_value_error(cents: str) -> None:
    """A parser that raised anything else would stop the stream that such an amount stands in."""
    with pytest.raises(ValueError, match="amount of cents"):
        from_cents(cents)


@pytest.mark.parametrize("cents", ["1e-9", "1e-10", "1e-999999999", 1e-300])
def test_the_smallest_amount_is_a_nanocent(cents: str | float) -> None:
    assert from_cents(cents) == 1
