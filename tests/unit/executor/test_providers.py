"""Reading what comes over the wire; the stub's promises."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor import ends, storable
from services.executor.providers.completion import read_completion
from services.executor.providers.openai import messages_of, retry_after
from services.executor.providers.protocol import Answer, Call, ProviderFailure
from services.executor.providers.stub import StubProvider
from shared.events.envelope import Payload
from shared.money import from_cents
from tests.unit.executor.given import delivery

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
COMPLETION = st.fixed_dictionaries(
    {},
    optional={
        "choices": ANYTHING | st.lists(st.fixed_dictionaries({"message": st.dictionaries(st.text(), ANYTHING)})),
        "usage": ANYTHING
        | st.fixed_dictionaries(
            {"prompt_tokens": ANYTHING, "completion_tokens": ANYTHING, "prompt_tokens_details": ANYTHING}
        ),
    },
)


def call(**prompt: Any) -> Call:
    return Call("stub", "model", prompt, None, 10, "key")


def read(body: bytes) -> Answer | ProviderFailure:
    try:
        return read_completion(body, "openai", "gpt-4o-mini")
    except ProviderFailure as failure:
        return failure


@settings(deadline=None)
@given(COMPLETION | ANYTHING)
def test_whatever_comes_is_an_answer_that_can_be_stored_or_one_kind_of_failure(raw: Any) -> None:
    one, said = delivery(), read(json.dumps(raw).encode())
    if isinstance(said, ProviderFailure):
        assert said.kind == "InvalidAnswer" and said.spend in ("certain", "uncertain")
        assert (said.answer is not None) == (said.spend == "certain")
        end: Payload = ends.failed(one, 1, said, 5)
    else:
        end = ends.succeeded(one, 1, said, 5)
    stored = one.follow(end, 1).to_json()
    assert b"\\u0000" not in stored
    orjson.loads(stored)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(body: bytes) -> None:
    said = read(body)
    assert isinstance(said, Answer) or said.kind == "InvalidAnswer"


def test_text_keeps_all_that_can_be_kept() -> None:
    assert storable.text("größe 😀 \n\t") == "größe 😀 \n\t"
    assert storable.text("a\x00\ud800b") == "a\ufffd\ufffdb"


def test_a_tree_too_deep_is_cut_and_not_too_deep_is_kept() -> None:
    deep: Any = "leaf"
    for _ in range(500):
        deep = [deep]
    assert "nested too deeply" in json.dumps(storable.tree(deep))
    assert storable.tree({"a": [1, None, True, 2.5, {"b": "c"}]}) == {"a": [1, None, True, 2.5, {"b": "c"}]}


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "-2"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
    ],
)
def test_the_wait_that_a_provider_asks_for(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after(httpx2.Headers(headers), now_s=10.0) == wait_s


@pytest.mark.parametrize(
    "prompt", [{}, {"messages": []}, {"messages": ["x"], "input": "y"}, {"text": 5}, {"input": None}]
)
def test_a_prompt_without_a_question_is_the_callers_mistake(prompt: dict[str, Any]) -> None:
    with pytest.raises(ProviderFailure) as failure:
        messages_of(prompt)
    assert not failure.value.counts_for_breaker and not failure.value.asked


async def test_the_stub_is_deterministic() -> None:
    first, second, other = [await StubProvider().call(call(input=text)) for text in ("a", "a", "b")]
    assert first == second and first.output_text != other.output_text


async def test_the_stub_says_and_costs_what_it_is_told() -> None:
    answer = await StubProvider().call(call(input="12345678", simulated_output_text="x" * 40, simulated_cost_cents=1.5))
    assert (answer.output_text, answer.cost, answer.output_tokens) == ("x" * 40, from_cents("1.5"), 10)


@pytest.mark.parametrize("nothing", [False, None, "", 0])
async def test_the_stub_does_not_fail_where_it_is_not_asked_to(nothing: object) -> None:
    assert isinstance(await StubProvider().call(call(raise_error=nothing)), Answer)
