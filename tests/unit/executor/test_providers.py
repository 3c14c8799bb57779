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
from services.executor.providers.chunks import Assembly
from services.executor.providers.completion import read_completion
from services.executor.providers.failures import retry_after
from services.executor.providers.prompt import messages_of
from services.executor.providers.protocol import Answer, Call, Chunk, ProviderFailure
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
        return read_completion(body, Call("openai", "gpt-4o-mini", {}, None, 10, "key"))
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


def chunks_of(*bodies: dict[str, Any]) -> dict[str, Any]:
    assembly = Assembly()
    for body in bodies:
        assembly.add(body)
    return assembly.completion()


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def test_chunks_add_up_to_the_completion_that_one_piece_would_have_been() -> None:
    begun = {"index": 0, "id": "t1", "type": "function", "function": {"name": "look", "arguments": ""}}
    other = {"index": 1, "id": "t2", "type": "function", "function": {"name": "see", "arguments": "{}"}}
    whole = chunks_of(
        delta(role="assistant", content=None, tool_calls=[begun]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        delta(tool_calls=[other, {"index": 0, "function": {"arguments": ":1}"}}]),
        delta(1, content="hel"),
        delta(1, "stop", content="lo", role="assistant"),
        delta(0, "tool_calls"),
        {"id": "c", "choices": [], "usage": {"prompt_tokens": 3}, "system_fingerprint": "fp", "new": {"x": 1}},
    )
    calls = [
        {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
        {"id": "t2", "type": "function", "function": {"name": "see", "arguments": "{}"}},
    ]
    first, second = whole["choices"]
    assert first["message"] == {"role": "assistant", "content": None, "tool_calls": calls}
    assert (first["finish_reason"], second["finish_reason"]) == ("tool_calls", "stop")
    assert second["message"] == {"role": "assistant", "content": "hello"}
    assert (whole["usage"], whole["system_fingerprint"], whole["new"]) == ({"prompt_tokens": 3}, "fp", {"x": 1})


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["choices", "usage", "id", "x"]), ANYTHING), max_size=4))
def test_no_chunk_is_too_strange_and_none_is_changed(bodies: list[dict[str, Any]]) -> None:
    before = repr(bodies)
    chunks_of(*bodies)
    assert repr(bodies) == before


async def test_the_stub_streams_what_it_says_in_one_piece() -> None:
    heard: list[Chunk] = []
    asked = call(input="x", simulated_output_text=" two\n words ")
    answer = await StubProvider().stream(asked, heard.append)
    assert answer == await StubProvider().call(asked)
    assert len(heard) == 4 and [orjson.loads(one.raw) for one in heard] == [one.body for one in heard]
    assert chunks_of(*(one.body for one in heard)) == answer.metadata["completion"]
