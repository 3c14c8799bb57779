"""Results in OpenAI's shapes, and pieces in their order."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import openai_shape
from services.gateway.listening import MAX_MESSAGES, Feed, PiecesMissing
from shared.events.completion import with_text, without_text
from shared.events.results import TaskResult
from shared.events.tasks import TaskType

CALL = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
WHOLE: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop", "new": 1}],
    "usage": {"prompt_tokens": 1},
    "newer": {"x": 1},
}


def result(**fields: Any) -> TaskResult:
    task = uuid4()
    known = {"task_id": task, "api_call_id": task, "request_id": "r", "correlation_id": None, "model": "m"}
    return TaskResult(**{**known, "task_type": TaskType.ROUTE, "status": "success", "provider": "p", **fields})


@given(st.sampled_from(["", "hi", "other"]), st.sampled_from([None, "", "hi", [{"type": "text", "text": "hi"}]]))
def test_a_completion_is_whole_again_and_its_text_is_kept_once(text: str, content: Any) -> None:
    one = {**WHOLE, "choices": [{**WHOLE["choices"][0], "message": {"role": "assistant", "content": content}}]}
    kept = without_text(one, text)
    assert kept is not None and with_text(kept, text) == one
    if text and content == text:
        assert text not in orjson.dumps(kept["choices"]).decode()


def test_an_answer_that_was_there_streams_with_its_tool_calls() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    whole = {**WHOLE, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    events = list(openai_shape.chunks(result(completion=whole), 1, usage=True))
    first, stop, usage = (orjson.loads(event.removeprefix(b"data: ")) for event in events[:-1])
    assert first["choices"][0]["delta"]["tool_calls"] == [{"index": 0, **CALL}]
    assert first["newer"] == {"x": 1} and first["object"] == "chat.completion.chunk"
    assert stop["choices"][0]["finish_reason"] == "tool_calls"
    assert (usage["choices"], usage["usage"]) == ([], {"prompt_tokens": 1})
    assert events[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"status": "blocked", "blocked_reason": "monthly_cap_exceeded"}, 429, "monthly_cap_exceeded"),
        ({"status": "blocked", "blocked_reason": "an operator's own words"}, 429, "an operator's own words"),
        ({"status": "blocked", "blocked_reason": "provider_kill_switch"}, 503, "provider_kill_switch"),
        ({"status": "blocked", "blocked_reason": "breaker_open"}, 503, "breaker_open"),
        ({"status": "blocked", "blocked_reason": "unpriced"}, 400, "unpriced"),
        ({"status": "failed", "failure_reason": "provider_timeout"}, 504, "provider_timeout"),
        ({"status": "failed", "failure_reason": "provider_error:X"}, 502, "provider_error:X"),
        ({"status": "failed", "failure_reason": "stream_cut:provider_kill_switch"}, 503, "provider_kill_switch"),
        ({"status": "failed", "failure_reason": "stream_cut:hold_reached"}, 502, "hold_reached"),
        ({"status": "failed", "failure_reason": "stream_cut:shut off by ann"}, 429, "shut off by ann"),
    ],
)
def test_every_end_has_its_error(fields: dict[str, Any], status: int, code: str) -> None:
    problem = openai_shape.problem_of(result(**fields))
    assert problem is not None and (problem.status, problem.code, problem.retry) == (status, code, False)


def test_who_asks_a_provider_without_a_key_or_of_no_such_name_is_told_what_to_do() -> None:
    problem = openai_shape.problem_of(result(status="failed", failure_reason="provider_error:MissingCredentials"))
    assert problem is not None and "stub:model" in problem.detail
    misspelt = openai_shape.problem_of(result(status="blocked", blocked_reason="unknown_provider"))
    assert misspelt is not None and "a model is named provider:model" in misspelt.detail


async def test_pieces_come_in_order_and_once() -> None:
    feed = Feed()
    for message in (b"a 0", b"a 0\none\ntwo", b"a 0\none\ntwo\nthree", b"a 3\nfour"):
        feed.offer(message)
    assert [await feed.pieces() for _ in range(3)] == [[b"one", b"two"], [b"three"], [b"four"]]


@pytest.mark.parametrize("then", [b"a 2\nthree", b"b 0\none", b"b 1\ntwo", b"\n", b"nonsense\nx"])
async def test_a_gap_is_noticed_and_so_is_another_attempt(then: bytes) -> None:
    feed = Feed()
    feed.offer(b"a 0\none")
    feed.offer(then)
    assert await feed.pieces() == [b"one"]
    with pytest.raises(PiecesMissing):
        await feed.pieces()


async def test_a_lost_connection_and_a_reader_too_slow_are_gaps() -> None:
    feed = Feed()
    feed.subscribed.set_result(None)
    feed.lose()
    with pytest.raises(PiecesMissing):
        await feed.pieces()
    slow = Feed()
    for number in range(MAX_MESSAGES + 1):
        slow.offer(b"a %d\nx" % number)
    for _ in range(MAX_MESSAGES):
        await slow.pieces()
    with pytest.raises(PiecesMissing):
        await slow.pieces()


@pytest.mark.parametrize(
    ("body", "is_usage"),
    [
        ({"choices": [], "usage": {"prompt_tokens": 1}}, True),
        ({"choices": [], "usage": None}, False),
        ({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": None}, False),
        ({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": {"prompt_tokens": 1}}, False),
        ({"choices": [{"index": 0, "delta": {"content": '"usage"'}}]}, False),
        ({"choices": [], "note": 'a "delta" of it', "usage": {"prompt_tokens": 1}}, True),
    ],
)
def test_a_piece_that_says_nothing_but_the_usage_is_known(body: dict[str, Any], is_usage: bool) -> None:
    assert openai_shape.is_usage(orjson.dumps(body)) is is_usage
    assert openai_shape.is_usage(json.dumps(body).encode()) is is_usage
