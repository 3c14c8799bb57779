"""`/v1/tasks`: submit a task, look at one, follow its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import orjson
from fastapi import APIRouter, Path
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from services.gateway.auth import user_for
from services.gateway.documented import FOLLOWED, KEYED, SHOWN, SUBMITTED, body
from services.gateway.door import Door, too_large, wait_of
from services.gateway.problems import Problem
from services.gateway.submission import Invalid, TaskRequest, parse
from shared.control_state import Key
from shared.events.results import END_EVENTS, TaskResult

KEEP_ALIVE_S = 15.0

# Read by hand, for the same words about it as about everything else.
TaskId = Annotated[str, Path(json_schema_extra={"format": "uuid"})]
_BODY = body(TaskRequest.model_json_schema())


def router(door: Door) -> APIRouter:
    """The routes, bound to their door."""
    routes = APIRouter(prefix="/v1/tasks", tags=["tasks"])

    @routes.post("", openapi_extra=_BODY, responses=SUBMITTED, status_code=202, summary="Submit a task")
    async def submit(request: Request) -> Response:
        """202 with the task's id; with `Prefer: wait=N` 200 and the result, if it comes within N seconds."""
        key = door.keeper.admit(request, "producer")
        task = _parsed(await door.body(request), door)
        wait_s = wait_of(request, door.settings.max_wait_seconds)
        submitted = await door.submit(request, key, task, origin="http", wait_s=wait_s)
        location = {"Location": f"/v1/tasks/{submitted.task_id}", **submitted.remaining}
        if submitted.result is not None and wait_s > 0:
            return _json(submitted.result.shown(), 200, location)
        pending = {
            "task_id": str(submitted.task_id),
            "api_call_id": str(submitted.task_id),
            "request_id": submitted.request_id,
            "correlation_id": submitted.event.correlationid,
            "task_type": task.task_type.value,
        }
        if submitted.result is not None:
            return _json(submitted.result.shown(), 202, location)
        return _json({**pending, "status": "pending"}, 202, location)

    @routes.get(
        "/{task_id}", openapi_extra=KEYED, responses=SHOWN, summary="The result of a task, or that it is pending"
    )
    async def show(request: Request, task_id: TaskId) -> Response:
        """200 with `status: pending`, or the result; 404 for a task that is not the caller's."""
        key = door.keeper.admit(request)
        found = await _look(door, key, _task_id(task_id), request.query_params.get("user_id"))
        return _json(found, 200)

    @routes.get(
        "/{task_id}/events",
        openapi_extra=KEYED,
        responses=FOLLOWED,
        summary="The events of a task as they happen (SSE)",
    )
    async def events(request: Request, task_id: TaskId) -> Response:
        """Each event as `event: <type>`, until the task's end. Where that event is trimmed already: `event: result`."""
        key = door.keeper.admit(request)
        identifier = _task_id(task_id)
        found = await _look(door, key, identifier, request.query_params.get("user_id"))
        if not door.results.may_watch():
            raise Problem(503, "too_many_wait", "too many follow tasks on this gateway already", retry_after_s=5)
        return StreamingResponse(
            _events(door, key.tenant_id, identifier, found),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    return routes


async def _events(door: Door, tenant_id: UUID, task_id: UUID, found: dict[str, Any]) -> AsyncIterator[bytes]:
    """The task's events up to its end. `found`: the task as it was when this was asked for."""
    seen: set[str] = set()
    try:
        async with door.results.watch(tenant_id, task_id) as queue:
            while found["status"] == "pending" or not queue.empty():
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        event = await queue.get()
                except TimeoutError:
                    # Its end may have come while the log was out of reach, and be trimmed since.
                    record = await door.results.record(tenant_id, task_id)
                    if record is None:
                        return
                    found = _shown(task_id, record)
                    yield b": still there\n\n"
                    continue
                identifier = str(event.get("id"))
                if identifier not in seen:
                    seen.add(identifier)
                    yield _sse(str(event["type"]), {**event, "data": _without_prompt(event.get("data"))}, identifier)
                if event["type"] in END_EVENTS:
                    return
        yield _sse("result", found)
    except (RedisError, OSError):
        yield b": the log cannot be reached; ask again\n\n"


def _sse(event: str, data: dict[str, Any], identifier: str | None = None) -> bytes:
    """One event of the stream (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    name = f"event: {event}\n" + (f"id: {identifier}\n" if identifier else "")
    return b"%sdata: %s\n\n" % (name.encode(), orjson.dumps(data))


def _without_prompt(data: Any) -> Any:
    """An event's payload without the prompt: the producer has it, and nobody else needs it."""
    if isinstance(data, dict) and isinstance(data.get("task"), dict):
        return {**data, "task": {name: value for name, value in data["task"].items() if name != "prompt"}}
    return data


async def _look(door: Door, key: Key, task_id: UUID, user: str | None) -> dict[str, Any]:
    """The task as the key may see it: its user's tasks, or its tenant's where it names no user; `user` narrows that."""
    whose = _user_id(user)
    if key.user_id is not None:
        whose = user_for(key, whose)
    try:
        record = await door.results.record(key.tenant_id, task_id)
    except (RedisError, OSError) as error:
        raise Problem(503, "log_unreachable", "the log cannot be reached", retry_after_s=1) from error
    if record is None:
        return await _from_history(door, key.tenant_id, whose, task_id)
    if whose is not None and record.get(b"user", b"").decode() != str(whose):
        raise _unknown(task_id)
    return _shown(task_id, record)


def _shown(task_id: UUID, record: dict[bytes, bytes]) -> dict[str, Any]:
    """The task as its record tells it."""
    if record.get(b"result"):
        return TaskResult.model_validate_json(record[b"result"]).shown()
    return {
        "task_id": str(task_id),
        "api_call_id": str(task_id),
        "request_id": record.get(b"request_id", b"").decode(),
        "correlation_id": record.get(b"correlation_id", b"").decode() or None,
        "task_type": record.get(b"task_type", b"").decode(),
        "status": "pending",
    }


async def _from_history(door: Door, tenant_id: UUID, whose: UUID | None, task_id: UUID) -> dict[str, Any]:
    if whose is None:
        raise _unknown(task_id)
    try:
        result = await door.history.result(tenant_id, whose, task_id)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise Problem(503, "ledger_unreachable", "the ledger cannot be read", retry_after_s=2) from error
    if result is None:
        raise _unknown(task_id)
    return result.shown()


def _unknown(task_id: UUID) -> Problem:
    return Problem(404, "unknown_task", f"there is no task {task_id} for this key")


def _task_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Problem(422, "invalid_task_id", "a task id is a UUID") from error


def _user_id(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError as error:
        raise Problem(422, "invalid_user", "user_id is a UUID") from error


def _parsed(body: bytes, door: Door) -> TaskRequest:
    try:
        return parse(body, door.settings.max_body_bytes, door.settings.max_body_depth)
    except Invalid as error:
        raise (too_large(str(error)) if error.too_large else Problem(422, "invalid_task", str(error))) from error


def _json(body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
