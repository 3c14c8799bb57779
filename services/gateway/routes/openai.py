"""The OpenAI-compatible door: an unmodified OpenAI client with its `base_url` set to us. Each request is a task."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from services.gateway.door import Door, Submitted, too_large
from services.gateway.problems import Problem
from services.gateway.submission import Invalid, parse_json, validate
from shared.events.decisions import BlockReason
from shared.events.results import TaskResult
from shared.models import DEFAULT_MODELS

# What of the caller's body is not part of the question: transport, and who asks.
_TRANSPORT = frozenset({"stream", "stream_options"})
_STOPPED = frozenset(
    {BlockReason.KILL_SWITCH, BlockReason.BREAKER_OPEN, BlockReason.CONTROL_STALE, BlockReason.POLICY_ERROR}
)
_INVALID = frozenset({BlockReason.UNPRICED, BlockReason.UNKNOWN_PROVIDER, BlockReason.MAX_COST})


def router(door: Door) -> APIRouter:
    """The routes, bound to their door."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.post("/chat/completions", summary="OpenAI's chat completions, governed")
    async def chat(request: Request) -> Response:
        """OpenAI's response, or an OpenAI-shaped error: 429 for limits, 503 for kill switch and breaker.

        Headers: `X-Skeldir-Task-Type` (default `route`), `X-Skeldir-User`, `X-Skeldir-Max-Cost-Cents`,
        `X-Skeldir-Cache: on`, `X-Skeldir-Cache-Watermark`, `X-Skeldir-Correlation-Id`.
        """
        key = door.keeper.admit(request, "producer")
        try:
            body = parse_json(await door.body(request), door.settings.max_body_bytes, door.settings.max_body_depth)
            if not isinstance(body.get("messages"), list) or not body["messages"]:
                raise Invalid("messages: a list with at least one message is required")
            task = validate(_task(request, body))
        except Invalid as error:
            raise (too_large(str(error)) if error.too_large else Problem(422, "invalid_request", str(error))) from error
        submitted = await door.submit(request, key, task, origin="openai", wait_s=door.settings.max_wait_seconds)
        result = _answered(submitted)
        headers = {"X-Skeldir-Task-Id": str(result.task_id), "X-Skeldir-Cost-Cents": str(result.usage.cost_cents)}
        if body.get("stream"):
            options = body.get("stream_options")
            usage = isinstance(options, dict) and bool(options.get("include_usage"))
            return StreamingResponse(_chunks(result, usage), media_type="text/event-stream", headers=headers)
        return JSONResponse(_completion(result), headers=headers)

    @routes.get("/models", summary="Models that can be named")
    async def models(request: Request) -> Response:
        """The default model of each provider; any other model of a known provider can be named too."""
        door.keeper.admit(request)
        known = [f"{provider}:{model}" for provider, model in DEFAULT_MODELS.items()]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": name.split(":")[0]} for name in known]
        return JSONResponse({"object": "list", "data": data})

    return routes


def _task(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    """The task that a chat completion is."""
    headers = request.headers
    prompt = {name: value for name, value in body.items() if name not in _TRANSPORT and value is not None}
    if headers.get("x-skeldir-cache", "").lower() in ("on", "true", "1"):
        prompt["cache_enabled"] = True
        watermark = headers.get("x-skeldir-cache-watermark", "0")
        prompt["cache_watermark"] = int(watermark) if watermark.isdecimal() else watermark
    task: dict[str, Any] = {"task_type": headers.get("x-skeldir-task-type", "route"), "prompt": prompt}
    for header, name in (
        ("x-skeldir-user", "user_id"),
        ("x-skeldir-max-cost-cents", "max_cost_cents"),
        ("x-skeldir-correlation-id", "correlation_id"),
    ):
        if header in headers:
            task[name] = headers[header]
    return task


def _answered(submitted: Submitted) -> TaskResult:
    """The result of a task that succeeded. Raises Problem for all others."""
    result = submitted.result
    if result is None:
        detail = f"task {submitted.task_id} has not ended in time; ask again with the same Idempotency-Key"
        raise Problem(504, "still_pending", detail, retry=False)
    if result.status == "blocked":
        reason = result.blocked_reason or "blocked"
        detail = f"blocked by policy: {reason} (task {result.task_id})"
        if reason in _INVALID:
            raise Problem(400, reason, detail, retry=False)
        raise Problem(503 if reason in _STOPPED else 429, reason, detail, retry=False)
    if result.status == "failed":
        reason = result.failure_reason or "failed"
        timeout = reason == "provider_timeout"
        detail = f"the provider failed: {reason} (task {result.task_id})"
        raise Problem(504 if timeout else 502, reason, detail, retry=False)
    return result


def _completion(result: TaskResult) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{result.task_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": result.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": result.output_text},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(result),
    }


def _usage(result: TaskResult) -> dict[str, int]:
    inputs, outputs = result.usage.input_tokens, result.usage.output_tokens
    return {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}


async def _chunks(result: TaskResult, usage: bool) -> AsyncIterator[bytes]:
    """The answer as a stream of chunks."""
    base = {
        "id": f"chatcmpl-{result.task_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": result.model,
    }
    for delta, finish in (
        ({"role": "assistant", "content": ""}, None),
        ({"content": result.output_text}, None),
        ({}, "stop"),
    ):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        yield b"data: %s\n\n" % orjson.dumps({**base, "choices": [choice]})
    if usage:
        yield b"data: %s\n\n" % orjson.dumps({**base, "choices": [], "usage": _usage(result)})
    yield b"data: [DONE]\n\n"
