"""Both HTTP APIs answer as their OpenAPI documents say, whatever is asked of them: no 5xx but those that are meant."""

from __future__ import annotations

from uuid import uuid4

from tests.conformance import conforms
from tests.stack import Stack


def test_the_gateway_answers_as_it_says(stack: Stack) -> None:
    """All but orders, which would stop other tests: those in `tests/integration/gateway/test_conformance.py`."""
    document = stack.get("/openapi.json").json()
    key = stack.key(str(uuid4()), str(uuid4()))
    assert conforms(document, stack.ready["gateway_url"], key, examples=8, without=("/v1/control",)) > 80


def test_the_read_api_answers_as_it_says(stack: Stack) -> None:
    document = stack.get("/openapi.json", base="ledger_url").json()
    assert conforms(document, stack.ready["ledger_url"], stack.ready["operator_key"], examples=4) > 30
