"""Between OpenAI's shape and Gemini's: what is asked, and what comes back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor import ends
from services.executor.providers.completion import answer_of
from services.executor.providers.gemini_answer import Transcript, completion_of
from services.executor.providers.gemini_request import request_of
from services.executor.providers.protocol import Answer, Call, ProviderFailure
from shared.events.envelope import Payload
from tests.unit.executor.given import delivery
from tests.unit.executor.test_providers import ANYTHING

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}


def call(model: str = "gemini-2.5-flash", **prompt: Any) -> Call:
    return Call("gemini", model, prompt, 64, 10, "key")


def read(raw: Any) -> Answer | ProviderFailure:
    try:
        return answer_of(completion_of(raw, call()), call())
    except ProviderFailure as failure:
        return failure


def test_a_conversation_with_tools_is_said_in_geminis_words() -> None:
    signed = {"google": {"thought_signature": "c2ln"}}
    used = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "time", "arguments": ""}, "extra_content": signed}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = request_of(
        call(
            messages=[
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": [{"type": "text", "text": "Look"}, image]},
                {"role": "user", "content": "And say."},
                {"role": "assistant", "content": None, "tool_calls": [used, other]},
                {"role": "tool", "tool_call_id": "c2", "content": '{"hour": 7}'},
                {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sun"}]},
                {"role": "developer", "content": "And kind."},
            ],
            tools=[{"type": "function", "function": {"name": "weather", "description": "d", "parameters": WEATHER}}],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            parallel_tool_calls=True,
            stop="END",
            temperature=0.5,
            top_p=0.9,
            seed=7,
            n=1,
            user="u1",
            max_tokens=9000,
            cache_enabled=True,
            simulated_cost_cents=1,
        )
    )
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be short."}, {"text": "And kind."}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "Look"},
                    {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                    {"text": "And say."},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"functionCall": {"name": "weather", "args": {"city": "Bonn"}}},
                    {"functionCall": {"name": "time", "args": {}}, "thoughtSignature": "c2ln"},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "time", "response": {"hour": 7}}},
                    {"functionResponse": {"name": "weather", "response": {"result": "sun"}}},
                ],
            },
        ],
        "tools": [{"functionDeclarations": [{"name": "weather", "description": "d", "parametersJsonSchema": WEATHER}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
        "generationConfig": {
            "maxOutputTokens": 64,
            "stopSequences": ["END"],
            "temperature": 0.5,
            "topP": 0.9,
            "seed": 7,
        },
    }


@pytest.mark.parametrize(
    ("model", "effort", "said"),
    [
        ("gemini-2.5-pro", "low", {"thinkingBudget": 1024}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-3-pro", "high", {"thinkingLevel": "high"}),
    ],
)
def test_structure_and_effort(model: str, effort: str, said: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": WEATHER}}
    settings_ = request_of(call(model, input="hi", response_format=form, reasoning_effort=effort))["generationConfig"]
    assert settings_ == {
        "maxOutputTokens": 64,
        "responseMimeType": "application/json",
        "responseJsonSchema": WEATHER,
        "thinkingConfig": said,
    }


@pytest.mark.parametrize(
    "asked",
    [
        {"n": 2},
        {"logprobs": True},
        {"cachedContent": "cachedContents/1"},  # as long as a book, and paid for
        {"tools": [{"googleSearch": {}}]},
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        {"tool_choice": {"type": "custom"}},
        {"parallel_tool_calls": False},
        {"response_format": {"type": "grammar"}},
        {"reasoning_effort": "boundless"},
        {"messages": [{"role": "function", "content": "x"}]},
        {"messages": [{"role": "tool", "tool_call_id": "never", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/a"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:video/mp4;base64,AA"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"tools": {"a": 1}},
    ],
)
def test_what_cannot_be_said_or_bounded_is_refused_before_anything_is_asked(asked: dict[str, Any]) -> None:
    with pytest.raises(ProviderFailure) as refused:
        request_of(call(**{"input": "hi", **asked}))
    assert (refused.value.kind, refused.value.asked, refused.value.spend) == ("NotSupported", False, "none")
    assert not refused.value.counts_for_breaker


FIELDS = ("tools", "tool_choice", "response_format", "reasoning_effort", "stop", "user", "n", "thinking_config")


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "tool_calls"), ANYTHING)), max_size=3
    ),
    st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
)
def test_any_prompt_is_a_bounded_request_or_a_refusal(messages: list[dict[str, Any]], asked: dict[str, Any]) -> None:
    with suppress(ProviderFailure):
        assert request_of(call(messages=messages, **asked))["generationConfig"]["maxOutputTokens"] == 64


PART = st.fixed_dictionaries(
    {},
    optional={
        "text": ANYTHING,
        "thought": ANYTHING,
        "functionCall": ANYTHING | st.fixed_dictionaries({"args": ANYTHING}),
    },
)
CONTENT = ANYTHING | st.fixed_dictionaries({"parts": st.lists(PART, max_size=3)})
CANDIDATE = ANYTHING | st.fixed_dictionaries({"content": CONTENT, "finishReason": ANYTHING})
USAGE = ANYTHING | st.dictionaries(st.sampled_from(["promptTokenCount", "candidatesTokenCount"]), ANYTHING)
RESPONSE = st.fixed_dictionaries(
    {},
    optional={
        "candidates": ANYTHING | st.lists(CANDIDATE, max_size=2),
        "usageMetadata": USAGE,
        "promptFeedback": ANYTHING | st.fixed_dictionaries({"blockReason": ANYTHING}),
    },
)


@settings(deadline=None)
@given(RESPONSE | ANYTHING)
def test_whatever_comes_is_an_answer_that_can_be_stored_or_one_kind_of_failure(raw: Any) -> None:
    one, said = delivery(), read(raw)
    if isinstance(said, ProviderFailure):
        assert said.kind == "InvalidAnswer" and said.spend in ("certain", "uncertain")
        end: Payload = ends.failed(one, 1, said, 5)
    else:
        end = ends.succeeded(one, 1, said, 5)
    orjson.loads(one.follow(end, 1).to_json())


@settings(deadline=None)
@given(st.lists(RESPONSE, max_size=4))
def test_whatever_is_streamed_is_chunks(pieces: list[dict[str, Any]]) -> None:
    transcript = Transcript(call())
    for piece in pieces:
        transcript.chunks(piece)
    transcript.end()


def test_thoughts_are_paid_for_and_what_was_cached_is_priced_apart() -> None:
    usage = {
        "promptTokenCount": 1000,
        "cachedContentTokenCount": 400,
        "candidatesTokenCount": 50,
        "thoughtsTokenCount": 30,
    }
    raw = {
        "candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "MAX_TOKENS"}],
        "usageMetadata": usage,
    }
    completion = completion_of(raw, call())
    answer = answer_of(completion, call())
    assert completion["choices"][0]["finish_reason"] == "length"
    assert (answer.input_tokens, answer.output_tokens) == (1000, 80)
    # Dollars a million: 0.30 fresh, 0.03 cached, 2.50 out.
    assert answer.cost == round((600 * 0.3 + 400 * 0.03 + 80 * 2.5) * 100_000)


def test_a_refusal_is_said_again() -> None:
    said = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    body = request_of(call(messages=[{"role": "user", "content": "hi"}, said]))
    assert body["contents"][1]["parts"] == [{"text": "no"}]


@pytest.mark.parametrize(("asked", "mode"), [("auto", "AUTO"), ("none", "NONE"), ("required", "ANY")])
def test_whether_a_tool_is_called_is_the_callers_choice(asked: str, mode: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": WEATHER}}
    body = request_of(call(input="hi", tools=[tool], tool_choice=asked))
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": mode}


@pytest.mark.parametrize(
    ("asked", "said"), [("text", None), ({"type": "text"}, None), ({"type": "json_object"}, "application/json")]
)
def test_an_answer_without_a_schema_is_text_or_any_json(asked: Any, said: str | None) -> None:
    body = request_of(call(input="hi", response_format=asked))
    assert body["generationConfig"].get("responseMimeType") == said
    assert "responseJsonSchema" not in body["generationConfig"]


@pytest.mark.parametrize(
    "model",
    ["gemini-2.5-pro?", "gemini-2.5-pro#", "a/../b", "..", "a..b", "a%2F%2e%2e%2Fb", "a&b", "a/b", "a:predict", ""],
)
def test_a_name_that_would_make_another_address_is_the_callers_mistake(model: str) -> None:
    with pytest.raises(ProviderFailure) as refused:
        request_of(call(model, input="hi"))
    failed = refused.value
    assert (failed.kind, failed.spend) == ("NotSupported", "none")
    assert not (failed.asked or failed.counts_for_breaker)


@pytest.mark.parametrize("model", ["gemini-2.5-flash-preview-09-2025", "models/gemini-2.5-pro", "tunedModels/mine_1"])
def test_a_name_of_google_is_asked_for(model: str) -> None:
    assert request_of(call(model, input="hi"))["contents"]


@pytest.mark.parametrize(
    "counts",
    [{}, {"candidatesTokenCount": -1}, {"candidatesTokenCount": "100"}, {"candidatesTokenCount": 2**60},
     {"candidatesTokenCount": 9, "thoughtsTokenCount": -1}],
)  # fmt: skip
def test_text_without_a_count_that_can_be_true_costs_the_whole_reservation(counts: dict[str, Any]) -> None:
    usage = {"promptTokenCount": 1000, **counts}
    piece = {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}], "usageMetadata": usage}
    answer = read(piece)
    assert isinstance(answer, Answer) and (answer.output_text, answer.cost) == ("hi", None)
    transcript = Transcript(call())
    transcript.chunks(piece)
    assert transcript.end() == []


def test_thoughts_alone_need_no_count_of_an_answer() -> None:
    parts = [{"text": "Hm.", "thought": True}]
    usage = {"promptTokenCount": 1000, "thoughtsTokenCount": 64}
    candidate = {"content": {"parts": parts}, "finishReason": "MAX_TOKENS"}
    answer = read({"candidates": [candidate], "usageMetadata": usage})
    assert isinstance(answer, Answer) and (answer.output_tokens, answer.cost) == (64, 46_000_000)
