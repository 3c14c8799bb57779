"""Between OpenAI's shape and Anthropic's: what is asked, and what comes back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor import ends
from services.executor.providers.anthropic_answer import Transcript, completion_of
from services.executor.providers.anthropic_request import request_of
from services.executor.providers.completion import answer_of
from services.executor.providers.protocol import Answer, Call, ProviderFailure
from shared.events.envelope import Payload
from tests.unit.executor.given import delivery
from tests.unit.executor.test_providers import ANYTHING


def call(**prompt: Any) -> Call:
    return Call("anthropic", "claude-haiku-4-5", prompt, 64, 10, "key")


def read(raw: Any) -> Answer | ProviderFailure:
    try:
        return answer_of(completion_of(raw, call()), call())
    except ProviderFailure as failure:
        return failure


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}


def test_a_conversation_with_tools_is_said_in_anthropics_words() -> None:
    used = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": ""}}
    png = "data:image/png;base64,AAAA"
    body = request_of(
        call(
            messages=[
                {"role": "system", "content": "Be short."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": png}}],
                },
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]},
                {"role": "assistant", "content": None, "tool_calls": [used, other]},
                {"role": "tool", "tool_call_id": "c1", "content": "sun"},
                {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "rain"}]},
                {"role": "developer", "content": "And kind."},
            ],
            tools=[{"type": "function", "function": {"name": "weather", "description": "d", "parameters": WEATHER}}],
            tool_choice="required",
            parallel_tool_calls=False,
            stop="END",
            temperature=0.5,
            seed=7,
            n=1,
            logprobs=False,
            user="u1",
            max_tokens=9000,
            cache_enabled=True,
            simulated_cost_cents=1,
        )
    )
    assert body == {
        "system": [{"type": "text", "text": "Be short."}, {"type": "text", "text": "And kind."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                    {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bonn"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "sun"}]},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "rain"}]},
                ],
            },
        ],
        "tools": [{"name": "weather", "description": "d", "input_schema": WEATHER}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "metadata": {"user_id": "u1"},
        "max_tokens": 64,
    }


def test_structure_effort_and_what_is_anthropics_own() -> None:
    body = request_of(
        call(
            input="hi",
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": WEATHER}},
            reasoning_effort="minimal",
            service_tier="flex",
            thinking={"type": "disabled"},
            top_k=3,
        )
    )
    assert body == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "output_config": {"format": {"type": "json_schema", "schema": WEATHER}, "effort": "low"},
        "service_tier": "standard_only",
        "thinking": {"type": "disabled"},
        "top_k": 3,
        "max_tokens": 64,
    }


def test_a_refusal_is_said_again_and_a_tool_of_anthropics_own_goes_as_it_is() -> None:
    own = {"type": "custom", "name": "f", "input_schema": WEATHER}
    said = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    body = request_of(call(messages=[{"role": "user", "content": "hi"}, said], tools=[own]))
    assert body["tools"] == [own]
    assert body["messages"][1]["content"] == [{"type": "text", "text": "no"}]


@pytest.mark.parametrize(
    "asked",
    [
        {"n": 2},
        {"logprobs": True},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        {"tools": {"a": 1}},
        {"tool_choice": {"type": "custom"}},
        {"messages": [{"role": "function", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
        {"messages": [{"role": "user", "content": 5}]},
    ],
)
def test_what_cannot_be_said_is_refused_before_anything_is_asked(asked: dict[str, Any]) -> None:
    with pytest.raises(ProviderFailure) as refused:
        request_of(call(**{"input": "hi", **asked}))
    assert (refused.value.kind, refused.value.asked, refused.value.spend) == ("NotSupported", False, "none")
    assert not refused.value.counts_for_breaker


FIELDS = ("tools", "tool_choice", "response_format", "reasoning_effort", "stop", "user", "n", "output_config", "system")


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "tool_calls"), ANYTHING)), max_size=3
    ),
    st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
)
def test_any_prompt_is_a_request_or_a_refusal(messages: list[dict[str, Any]], asked: dict[str, Any]) -> None:
    with suppress(ProviderFailure):
        assert request_of(call(messages=messages, **asked))["max_tokens"] == 64


MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "content": ANYTHING
        | st.lists(
            st.fixed_dictionaries({"type": st.sampled_from(["text", "tool_use", "thinking"]), "input": ANYTHING})
        ),
        "usage": ANYTHING | st.fixed_dictionaries({"input_tokens": ANYTHING, "output_tokens": ANYTHING}),
        "stop_reason": ANYTHING,
    },
)


@settings(deadline=None)
@given(MESSAGE | ANYTHING)
def test_whatever_comes_is_an_answer_that_can_be_stored_or_one_kind_of_failure(raw: Any) -> None:
    one, said = delivery(), read(raw)
    if isinstance(said, ProviderFailure):
        assert said.kind == "InvalidAnswer" and said.spend in ("certain", "uncertain")
        end: Payload = ends.failed(one, 1, said, 5)
    else:
        end = ends.succeeded(one, 1, said, 5)
    orjson.loads(one.follow(end, 1).to_json())


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["type", "index", "delta", "usage", "message"]), ANYTHING), max_size=4))
def test_whatever_is_streamed_is_chunks(events: list[dict[str, Any]]) -> None:
    transcript = Transcript(call())
    for event in events:
        for kind in ("message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop"):
            transcript.chunks({**event, "type": kind})


def test_what_was_cached_is_part_of_the_input_and_priced_apart() -> None:
    usage = {
        "input_tokens": 100,
        "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 500,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 20},
    }
    raw = {"content": [{"type": "text", "text": "hi"}], "usage": usage, "stop_reason": "max_tokens"}
    completion = completion_of(raw, call())
    answer = answer_of(completion, call())
    assert completion["choices"][0]["finish_reason"] == "length"
    assert (answer.input_tokens, answer.output_tokens) == (1600, 50)
    # Dollars a million: 1 fresh, 0.10 read, 1.25 written, 2 written for an hour, 5 out.
    millionths = 100 * 1 + 1000 * 0.1 + 200 * 1.25 + 300 * 2 + 50 * 5
    assert answer.cost == round(millionths * 100_000)
