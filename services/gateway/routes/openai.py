"""The OpenAI-compatible door: an unmodified OpenAI client with its `base_url` set to us. Each request is a task."""

from __future__ import annotations

import time
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from services.gateway import dialects, openai_shape
from services.gateway.documented import ASKED, asked
from services.gateway.door import Door, Submitted, header, too_large
from services.gateway.problems import Problem
from services.gateway.routes.openai_stream import StreamedAnswer
from services.gateway.submission import Invalid, TaskRequest, parse_json, validate
from shared.events.results import TaskResult

# What of the caller's body is not part of the question: transport.
_TRANSPORT = frozenset({"stream", "stream_options"})
_INPUT = asked(input={"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]})
# An answer has at most 4 MiB, and that many vectors fit into it.
MAX_EMBEDDED = 200
# Of a watermark: what is longer is no number that it can be, and may be too long to be read as one.
MAX_DIGITS = 100


def router(door: Door) -> APIRouter:
    """The routes, bound to their door."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.post(
        "/chat/completions",
        openapi_extra=asked(messages={"type": "array", "minItems": 1}),
        responses=ASKED,
        summary="OpenAI's chat completions, governed",
    )
    async def chat(request: Request) -> Response:
        """OpenAI's response, or an OpenAI-shaped error: 429 for limits, 503 for kill switch and breaker.

        Headers: `X-Skeldir-Task-Type` (default `route`), `X-Skeldir-User`, `X-Skeldir-Max-Cost-Cents`,
        `X-Skeldir-Cache: on`, `X-Skeldir-Cache-Watermark`, `X-Skeldir-Correlation-Id`.
        """
        key = door.keeper.admit(request, "producer")
        body, task = await _read(door, request, _messages)
        if body.get("stream"):
            options = body.get("stream_options")
            usage = isinstance(options, dict) and bool(options.get("include_usage"))
            return StreamedAnswer(door, request, key, task, dialects.Chat(usage))
        wait_s = door.settings.max_wait_seconds
        submitted = await door.submit(request, key, task, origin="openai", wait_s=wait_s)
        result = _answered(submitted)
        return _json(openai_shape.completion(result, int(time.time())), result, submitted)

    @routes.post("/responses", openapi_extra=_INPUT, responses=ASKED, summary="OpenAI's responses, governed")
    async def responses(request: Request) -> Response:
        """As the chat completions. What the provider keeps cannot be gone on with: nobody here knows its size."""
        key = door.keeper.admit(request, "producer")
        body, task = await _read(door, request, _input)
        if body.get("stream"):
            return StreamedAnswer(door, request, key, task, dialects.Responses())
        wait_s = door.settings.max_wait_seconds
        submitted = await door.submit(request, key, task, origin="openai", wait_s=wait_s, operation="responses")
        result = _answered(submitted)
        return _json(dialects.response(result, int(time.time())), result, submitted)

    @routes.post("/embeddings", openapi_extra=_INPUT, responses=ASKED, summary="OpenAI's embeddings, governed")
    async def embeddings(request: Request) -> Response:
        """As the chat completions, with the same headers."""
        key = door.keeper.admit(request, "producer")
        _, task = await _read(door, request, _embeddable)
        wait_s = door.settings.max_wait_seconds
        submitted = await door.submit(request, key, task, origin="openai", wait_s=wait_s, operation="embeddings")
        result = _answered(submitted)
        if result.completion is None:
            raise Problem(502, "no_embeddings", f"task {result.task_id} has no embeddings", retry=False)
        return _json(result.completion, result, submitted)

    return routes


async def _read(door: Door, request: Request, check: Any) -> tuple[dict[str, Any], TaskRequest]:
    """The body, and the task that it is. Raises Problem 413, 422."""
    try:
        body = parse_json(await door.body(request), door.settings.max_body_bytes, door.settings.max_body_depth)
        check(body)
        return body, validate(_task(request, body))
    except Invalid as error:
        raise (too_large(str(error)) if error.too_large else Problem(422, "invalid_request", str(error))) from error


def _messages(body: dict[str, Any]) -> None:
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise Invalid("messages: a list with at least one message is required")


def _input(body: dict[str, Any]) -> None:
    asked = body.get("input")
    if not asked or not isinstance(asked, str | list):
        raise Invalid("input: a string or a list that is not empty is required")


def _embeddable(body: dict[str, Any]) -> None:
    _input(body)
    asked = body["input"]
    if isinstance(asked, list) and not isinstance(asked[0], int) and len(asked) > MAX_EMBEDDED:
        raise Invalid(f"input: at most {MAX_EMBEDDED} in one request; send several")


def _task(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    """The task that a request is."""
    headers = request.headers
    prompt = {name: value for name, value in body.items() if name not in _TRANSPORT and value is not None}
    options = body.get("stream_options")
    if isinstance(options, dict) and (others := {k: v for k, v in options.items() if k != "include_usage"}):
        prompt["stream_options"] = others  # what we do not know is the provider's
    if headers.get("x-skeldir-cache", "").lower() in ("on", "true", "1"):
        prompt["cache_enabled"] = True
        watermark = headers.get("x-skeldir-cache-watermark", "0")
        is_number = watermark.isdecimal() and len(watermark) <= MAX_DIGITS
        prompt["cache_watermark"] = int(watermark) if is_number else watermark
    task: dict[str, Any] = {"task_type": headers.get("x-skeldir-task-type", "route"), "prompt": prompt}
    for named, name in (
        ("x-skeldir-user", "user_id"),
        ("x-skeldir-max-cost-cents", "max_cost_cents"),
        ("x-skeldir-correlation-id", "correlation_id"),
    ):
        if (value := header(request, named)) is not None:
            task[name] = value
    return task


def _answered(submitted: Submitted) -> TaskResult:
    """The result of a task that succeeded. Raises Problem for all others."""
    result = submitted.result
    if result is None:
        detail = f"task {submitted.task_id} has not ended in time; ask again with the same Idempotency-Key"
        raise Problem(504, "still_pending", detail, retry=False)
    if problem := openai_shape.problem_of(result):
        problem.headers |= submitted.remaining
        raise problem
    return result


def _json(body: dict[str, Any], result: TaskResult, submitted: Submitted) -> Response:
    cost = {"X-Skeldir-Task-Id": str(result.task_id), "X-Skeldir-Cost-Cents": str(result.usage.cost_cents)}
    return Response(orjson.dumps(body), headers={**cost, **submitted.remaining}, media_type="application/json")
