"""The OpenAI-compatible door, by the unmodified official client, in front of a provider that keeps its own account."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from shared import pricing
from shared.money import from_cents
from shared.responses import events_of
from tests.mock_provider import MockProvider, Reply, piece
from tests.stack import Stack, eventually

MODEL = "gpt-4o-mini"
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"it"}'}}
WORD = piece({"content": " word"})


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    with MockProvider() as running:
        yield running


@pytest.fixture(scope="module")
def skeldir(provider: MockProvider, new_folder: Callable[[], Path]) -> Iterator[Stack]:
    """A running system in front of that provider."""
    rich = {"SKELDIR_HOURLY_SHUTOFF_CENTS": "100000", "SKELDIR_MONTHLY_CAP_CENTS": "100000"}
    rich |= {"SKELDIR_PROVIDER_TIMEOUT_MS": "60000"}  # what is slow here is slow on purpose, or the machine
    given = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_BASE_URL": provider.url}
    with Stack(new_folder(), {**rich, **given}) as running:
        yield running


class Caller:
    """A user nobody has seen before, with a key of their own and an OpenAI client that has it."""

    def __init__(self, stack: Stack, provider: MockProvider) -> None:
        self.stack = stack
        self.tenant, self.user = stack.ready["tenant_id"], str(uuid4())
        self.key = stack.key(self.tenant, self.user)
        self.client = OpenAI(base_url=f"{stack.ready['gateway_url']}/v1", api_key=self.key, max_retries=0, timeout=30)
        self._provider, self._before = provider, len(provider.calls)

    def chat(self, **fields: Any) -> Any:
        return self.client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **fields})

    def stream(self, **fields: Any) -> Any:
        return self.chat(stream=True, **fields)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What the provider was asked since this caller is there."""
        return [call.body for call in self._provider.calls[self._before :]]

    def duplicates(self) -> float:
        """How many submissions of the gateway were repeats."""
        text = self.stack.get("/metrics").text
        found = re.search(
            r'^skeldir_gateway_submissions_total\{door="openai",status="duplicate"\} (\S+)', text, re.MULTILINE
        )
        return float(found[1]) if found else 0.0

    def row(self, task_id: str | None = None) -> dict[str, Any]:
        """The ledger's row of the task, or of the only one."""
        which = f" AND id = '{UUID(task_id)}'" if task_id else ""
        query = f"SELECT * FROM llm_api_calls WHERE status <> 'pending' AND budget_settled_cents IS NOT NULL{which}"
        found = eventually(lambda: self.stack.rows(query, self.tenant, self.user) or None, "the ledger row")
        (row,) = found
        return row


@pytest.fixture
def caller(skeldir: Stack, provider: MockProvider) -> Caller:
    assert not provider._script
    return Caller(skeldir, provider)


def test_what_is_asked_and_what_is_answered_pass_through_untouched(caller: Caller, provider: MockProvider) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]}]
    provider.script(Reply(text=None, message={"tool_calls": [CALL], "refusal": None, "brand_new": {"a": [1]}}))
    create: Any = caller.client.chat.completions.with_raw_response.create
    raw = create(
        model=MODEL,
        messages=messages,
        tools=[TOOL],
        tool_choice="required",
        response_format={"type": "json_object"},
        max_tokens=50,
        extra_body={"field_of_tomorrow": {"x": [1, None]}},
        extra_headers={"X-Skeldir-Task-Type": "investigation", "X-Skeldir-Correlation-Id": "c-1"},
    )
    assert caller.calls == [
        {
            "model": MODEL,
            "messages": messages,
            "tools": [TOOL],
            "tool_choice": "required",
            "response_format": {"type": "json_object"},
            "max_tokens": 50,
            "field_of_tomorrow": {"x": [1, None]},
        }
    ]
    answer = raw.parse()
    assert [call.model_dump() for call in answer.choices[0].message.tool_calls or ()] == [CALL]
    assert answer.choices[0].message.model_extra == {"brand_new": {"a": [1]}}
    assert answer.usage is not None and answer.usage.total_tokens == 1100
    row = caller.row(raw.headers["x-skeldir-task-id"])
    assert (row["task_type"], row["correlation_id"], row["status"]) == ("investigation", "c-1", "success")
    assert float(row["budget_settled_cents"]) == float(raw.headers["x-skeldir-cost-cents"]) == 0.021


class Place(BaseModel):
    city: str


def test_structured_output_is_parsed_by_the_client(caller: Caller, provider: MockProvider) -> None:
    provider.script(Reply(text='{"city":"Oslo"}'))
    answer = caller.client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Oslo")
    assert caller.calls[0]["response_format"]["json_schema"]["name"] == "Place"


def test_a_stream_passes_as_it_came_and_its_books_are_those_of_any_task(caller: Caller, provider: MockProvider) -> None:
    begun = {**CALL, "index": 0, "function": {"name": "look", "arguments": ""}}
    provider.default = Reply(
        pieces=(
            piece({"role": "assistant", "content": None, "tool_calls": [begun]}, system_fingerprint="fp_1"),
            piece({"tool_calls": [{"index": 0, "function": {"arguments": '{"at":'}}]}, new_field=7),
            piece({"tool_calls": [{"index": 0, "function": {"arguments": '"it"}'}}]}),
            piece({}, "tool_calls"),
            {**piece({}), "choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}},
        )
    )
    name = {"Idempotency-Key": str(uuid4())}
    try:
        chunks = list(caller.stream(stream_options={"include_usage": True}, tools=[TOOL], extra_headers=name))
        again = list(caller.stream(tools=[TOOL], extra_headers=name))
        whole = caller.chat(tools=[TOOL], extra_headers=name)
    finally:
        provider.default = Reply()
    calls = [part for chunk in chunks if chunk.choices for part in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(part.function.arguments for part in calls) == '{"at":"it"}'
    assert (chunks[0].system_fingerprint, chunks[1].model_extra) == ("fp_1", {"new_field": 7})
    assert (chunks[3].choices[0].finish_reason, chunks[4].usage.total_tokens) == ("tool_calls", None)
    assert whole.choices[0].message.tool_calls[0].model_dump() == CALL, "asked again without a stream: the same answer"
    assert [chunk.choices[0].finish_reason for chunk in again] == [None, "tool_calls"], "no usage unless asked for"
    (asked,) = caller.calls
    assert (asked["stream"], asked["stream_options"]) == (True, {"include_usage": True})
    row = caller.row()
    assert (row["status"], row["input_tokens"], row["output_tokens"]) == ("success", 1000, 100)
    assert float(row["budget_settled_cents"]) == 0.021


def test_the_first_piece_comes_when_it_is_there_and_who_leaves_cancels_and_pays_what_came(
    caller: Caller, provider: MockProvider
) -> None:
    provider.script(Reply(pieces=(piece({"role": "assistant", "content": "first"}), WORD), pause_s=60))
    stream, abandoned = caller.stream(max_tokens=1000), provider.abandoned
    # The second piece is a minute away: that there is a first one says that nobody waited for it.
    assert next(stream).choices[0].delta.content == "first"
    stream.close()
    eventually(lambda: provider.abandoned > abandoned, "the call is cancelled")
    row = caller.row()
    assert (row["status"], row["failure_reason"]) == ("failed", "stream_cut:client_left")
    spent = from_cents(row["budget_settled_cents"])
    least = pricing.cost("openai", MODEL, 5, 1)
    assert least is not None and least <= spent < from_cents(row["budget_reservation_cents"]) / 2


def test_who_leaves_a_stream_takes_it_from_nobody_who_waits_for_the_same(
    caller: Caller, provider: MockProvider
) -> None:
    usage = {**piece({}), "choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
    begun = piece({"role": "assistant", "content": "first"})
    provider.script(Reply(pieces=(begun, *[WORD] * 6, piece({}, "stop"), usage), pause_s=1))
    same = {"extra_headers": {"Idempotency-Key": str(uuid4())}}
    duplicates, abandoned = caller.duplicates(), provider.abandoned
    stream = caller.stream(**same)
    assert next(stream).choices[0].delta.content == "first"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(caller.chat, **same)
        eventually(lambda: caller.duplicates() > duplicates, "somebody waits for the same")
        stream.close()
        answer = waiting.result()
    assert answer.choices[0].message.content == "first" + " word" * 6
    assert (len(caller.calls), provider.abandoned, caller.row()["status"]) == (1, abandoned, "success")


def test_a_kill_switch_cuts_a_stream_with_a_proper_end(caller: Caller, provider: MockProvider) -> None:
    provider.script(Reply(pieces=(WORD,), endless=True, pause_s=0.02))
    abandoned, scope = provider.abandoned, {"tenant_id": caller.tenant, "user_id": caller.user}
    order = {"scope": scope, "reason": "enough", "actor": "test"}
    stream = caller.stream(max_tokens=100_000, model="gpt-4.1")
    next(stream)
    operator = caller.stack.ready["operator_key"]
    caller.stack.post("/v1/control", {"type": "kill_switch.engaged", **order}, key=operator)
    engaged = time.monotonic()
    with pytest.raises(openai.APIError) as cut:
        list(stream)
    assert cut.value.code == "provider_kill_switch"
    assert time.monotonic() - engaged < 10, "a second, on a machine that is slower, or stands still meanwhile"
    eventually(lambda: provider.abandoned > abandoned, "the provider is told, too")
    assert caller.row()["failure_reason"] == "stream_cut:provider_kill_switch"
    for asked in (caller.chat, caller.stream):
        with pytest.raises(openai.InternalServerError) as refused:
            asked()
        assert (refused.value.status_code, refused.value.code) == (503, "provider_kill_switch")
    assert len(caller.calls) == 1


def test_a_stream_that_passes_its_hold_is_cut(caller: Caller, provider: MockProvider) -> None:
    provider.script(Reply(pieces=(WORD,), endless=True, pause_s=0.005))
    stream, abandoned = caller.stream(max_tokens=20), provider.abandoned
    heard: list[Any] = []
    with pytest.raises(openai.APIError) as cut:
        heard.extend(iter(lambda: next(stream), None))
    assert cut.value.code == "hold_reached" and len(heard) > 20
    eventually(lambda: provider.abandoned > abandoned, "the call is cancelled")
    row = caller.row()
    assert row["failure_reason"] == "stream_cut:hold_reached" and row["output_tokens"] >= 20
    least = pricing.cost("openai", MODEL, 0, 21)
    assert least is not None and from_cents(row["budget_settled_cents"]) >= least


def test_a_stream_that_breaks_says_so_and_its_cost_stays_uncertain(caller: Caller, provider: MockProvider) -> None:
    provider.script(Reply(pieces=(WORD, b"not json")))
    stream = caller.stream()
    heard: list[Any] = []
    with pytest.raises(openai.APIError) as broken:
        heard.extend(iter(lambda: next(stream), None))
    assert (len(heard), broken.value.code) == (1, "provider_error:InvalidAnswer")
    query = "SELECT status, budget_settled_cents FROM llm_api_calls WHERE status <> 'pending'"
    (row,) = eventually(lambda: caller.stack.rows(query, caller.tenant, caller.user) or None, "the ledger row")
    assert row == {"status": "failed", "budget_settled_cents": None}
    assert len(caller.calls) == 1


def test_limits_are_429_streamed_or_not_and_a_refusal_is_not_asked_again(caller: Caller) -> None:
    scope = {"tenant_id": caller.tenant, "user_id": caller.user}
    order = {"type": "limits.set", "scope": scope, "hourly_cents": 0.001, "actor": "test"}
    assert caller.stack.post("/v1/control", order, key=caller.stack.ready["operator_key"]).status_code < 300

    def is_known() -> bool:
        said = caller.stack.run(key=caller.key, prompt={"model": "stub:model", "simulated_cost_cents": 1})
        return bool(said["status"] == "blocked")

    eventually(is_known, "the limit is known")
    query = "SELECT count(*) FROM llm_api_calls WHERE provider = 'openai' AND status = 'blocked'"
    eager = caller.client.with_options(max_retries=3)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as refused:
            eager.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
        assert refused.value.code == "hourly_threshold_exceeded"
    eventually(lambda: caller.stack.rows(query, caller.tenant, caller.user)[0]["count"] == 2, "two rows, and no third")
    assert caller.calls == []


def test_caps_and_cache_come_as_headers(caller: Caller, provider: MockProvider) -> None:
    cached = {"X-Skeldir-Cache": "on", "X-Skeldir-Max-Cost-Cents": "1"}
    provider.script(Reply(text="one two"))
    said = ["".join(c.choices[0].delta.content or "" for c in caller.stream(extra_headers=cached)) for _ in range(2)]
    assert said == ["one two", "one two"] and len(caller.calls) == 1
    with pytest.raises(openai.BadRequestError) as refused:
        caller.chat(extra_headers={"X-Skeldir-Max-Cost-Cents": "0.0000001"})
    assert refused.value.code == "max_cost_exceeded"
    with pytest.raises(openai.PermissionDeniedError):
        caller.chat(extra_headers={"X-Skeldir-User": str(uuid4())})


def test_embeddings_are_priced_by_their_input(caller: Caller, provider: MockProvider) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
    body = {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 1000, "total_tokens": 1000}}
    provider.script(Reply(body=body))
    answer = caller.client.embeddings.create(
        model="text-embedding-3-small", input=["hello"], dimensions=2, encoding_format="float"
    )
    assert answer.data[0].embedding == [0.5, -0.25] and answer.usage.prompt_tokens == 1000
    asked = {"model": "text-embedding-3-small", "input": ["hello"], "dimensions": 2, "encoding_format": "float"}
    assert caller.calls == [asked] and provider.calls[-1].path == "/v1/embeddings"
    assert float(caller.row()["budget_settled_cents"]) == 0.002


def replied(text: str, **more: Any) -> dict[str, Any]:
    """A response as OpenAI gives it."""
    usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    about = {"id": "resp_1", "object": "response", "created_at": 1, "model": MODEL, "status": "completed"}
    return {**about, "output": [message], "usage": usage, "tools": [], "parallel_tool_calls": True, **more}


def test_responses_pass_through_and_are_priced(caller: Caller, provider: MockProvider) -> None:
    provider.script(Reply(body=replied('{"city":"Oslo"}', brand_new=[1])))
    name = {"Idempotency-Key": str(uuid4())}
    asked: dict[str, Any] = {"model": MODEL, "input": "where?", "instructions": "short", "max_output_tokens": 50}
    answer = caller.client.responses.parse(**asked, text_format=Place, extra_headers=name)
    assert answer.output_parsed == Place(city="Oslo") and answer.model_extra == {"brand_new": [1]}
    (sent,) = caller.calls
    assert {field: sent[field] for field in asked} == asked and sent["text"]["format"]["name"] == "Place"
    assert provider.calls[-1].path == "/v1/responses"
    assert float(caller.row()["budget_settled_cents"]) == 0.021
    for more in ({"previous_response_id": "resp_1"}, {"tools": [{"type": "web_search"}]}, {"background": True}):
        with pytest.raises(openai.BadRequestError) as refused:
            caller.client.responses.create(**asked, **more)
        assert refused.value.code == "unpriced"


def test_a_streamed_response_passes_as_it_came_and_can_be_had_again(caller: Caller, provider: MockProvider) -> None:
    whole = replied("one two")
    provider.default = Reply(pieces=tuple(events_of(whole, ["one", " two"])))
    name = {"Idempotency-Key": str(uuid4())}
    try:
        said = []
        for _ in range(2):
            with caller.client.responses.stream(model=MODEL, input="x", extra_headers=name) as stream:
                said.append([event.delta for event in stream if event.type == "response.output_text.delta"])
                assert stream.get_final_response().usage.total_tokens == 1100  # type: ignore[union-attr]
    finally:
        provider.default = Reply()
    assert said == [["one", " two"], ["one two"]] and len(caller.calls) == 1
    provider.script(Reply(pieces=(*list(events_of(whole, ["one"]))[:4], b"not json")))
    with pytest.raises(openai.APIError) as broken:
        list(caller.client.responses.create(model=MODEL, input="y", stream=True))
    assert broken.value.code == "provider_error:InvalidAnswer"
    stubbed = caller.client.responses.create(model="stub:model", input="hello", stream=True)
    events = list(stubbed)
    assert events[-1].type == "response.completed"
    answered = caller.client.chat.completions.create(model="stub:model", messages=HELLO)
    pieces = list(caller.client.chat.completions.create(model="stub:model", messages=HELLO, stream=True))
    for made in (events[-1].response.created_at, answered.created, pieces[0].created):
        assert abs(made - time.time()) < 60


def test_errors_and_models_are_in_openais_shape(caller: Caller) -> None:
    stranger = OpenAI(base_url=caller.client.base_url, api_key="sk-skeldir-nobody", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as unknown:
        stranger.models.list()
    assert unknown.value.code == "unknown_key"
    with pytest.raises(openai.UnprocessableEntityError):
        caller.chat(messages=[])
    with pytest.raises(openai.UnprocessableEntityError):
        caller.client.embeddings.create(model="stub:e", input=["x"] * 201)
    with pytest.raises(openai.NotFoundError) as absent:
        caller.client.responses.retrieve("resp_1")
    assert absent.value.code == "no_such_path"
    with pytest.raises(openai.NotFoundError, match="not served here"):
        caller.client.moderations.create(input="x")
    misled = OpenAI(base_url=str(caller.client.base_url).removesuffix("v1/"), api_key=caller.key, max_retries=0)
    with pytest.raises(openai.NotFoundError, match="base_url ends in /v1"):
        misled.models.list()
    names = [model.id for model in caller.client.models.list()]
    assert [caller.client.models.retrieve(name).id for name in names] == names
    with pytest.raises(openai.NotFoundError):
        caller.client.models.retrieve("nobody:nothing")


def test_langchain_works_against_it(caller: Caller, provider: MockProvider) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    known: dict[str, Any] = {"base_url": str(caller.client.base_url), "api_key": caller.key, "max_retries": 0}
    chat = ChatOpenAI(model=MODEL, **known)
    provider.script(
        Reply(text=None, message={"tool_calls": [CALL]}), Reply(text='{"city":"Oslo"}'), Reply(text="one two")
    )
    assert chat.bind_tools([TOOL]).invoke("hello").tool_calls[0]["args"] == {"at": "it"}
    assert chat.with_structured_output(Place, method="json_schema").invoke("where?") == Place(city="Oslo")
    pieces = list(chat.stream("hello", stream_usage=True))
    assert "".join(str(one.content) for one in pieces) == "one two"
    assert [one.usage_metadata["total_tokens"] for one in pieces if one.usage_metadata] == [1100]
    provider.script(Reply(body=replied("by responses")))
    assert ChatOpenAI(model=MODEL, use_responses_api=True, **known).invoke("hello").text == "by responses"
    vectors = OpenAIEmbeddings(model="stub:e", check_embedding_ctx_length=False, **known).embed_documents(["a", "b"])
    assert len(vectors) == 2 and len(vectors[0]) == 8
