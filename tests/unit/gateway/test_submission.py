"""What a body or an inbox entry must not be."""

from __future__ import annotations

from uuid import UUID

import orjson
import pytest

from services.gateway.auth import user_for
from services.gateway.problems import Problem
from services.gateway.submission import MAX_AMOUNT_CHARACTERS, Invalid, parse
from shared.control_state import Key

TENANT, ANN, BEN = (UUID(int=one) for one in (1, 2, 3))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"x" * 1001, "1001 bytes; at most 1000"),
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (orjson.dumps({"task_type": "route", "prompt": {"a": {"b": {"c": {"d": 1}}}}}), "deeper than 4"),
        (orjson.dumps({"task_type": "route", "prompt": {}, "max_cost_cents": True}), "a number, or a decimal"),
        (orjson.dumps({"task_type": "route", "prompt": {}, "max_cost_cents": [1]}), "a number, or a decimal"),
        (orjson.dumps({"task_type": "route", "prompt": {}, "max_cost_cents": "dear"}), "dear"),
        (
            orjson.dumps({"task_type": "route", "prompt": {}, "max_cost_cents": "1" * (MAX_AMOUNT_CHARACTERS + 1)}),
            "at most 40 characters",
        ),
    ],
)
def test_it_is_refused_with_what_to_mend(body: bytes, said: str) -> None:
    with pytest.raises(Invalid, match=said) as refused:
        parse(body, 1000, 4)
    assert refused.value.too_large == (len(body) > 1000)


def test_a_key_acts_for_its_own_user_or_for_the_one_that_is_named() -> None:
    anns, wide = (Key("k", TENANT, user, "producer", None, "test", 0) for user in (ANN, None))
    assert user_for(anns, None) == user_for(anns, ANN) == user_for(wide, ANN) == ANN
    for key, named, status, code in ((anns, BEN, 403, "wrong_user"), (wide, None, 422, "missing_user")):
        with pytest.raises(Problem) as refused:
            user_for(key, named)
        assert (refused.value.status, refused.value.code) == (status, code)
