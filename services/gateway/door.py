"""What both HTTP doors do: read a body, submit a task, wait for its end."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import asyncpg
import structlog
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect, Request

from services.gateway.acceptance import Acceptance, Acceptor
from services.gateway.allowance import headers_of, model_of
from services.gateway.auth import Doorkeeper, user_for
from services.gateway.capacity import Capacity
from services.gateway.history import History
from services.gateway.listening import Feed, Listening
from services.gateway.metrics import SUBMISSIONS
from services.gateway.problems import Problem
from services.gateway.results import Results, TooManyWait
from services.gateway.submission import Invalid, TaskRequest, name_of, submission
from shared import tracing
from shared.clock import Clock
from shared.control_state import Key
from shared.events.envelope import Envelope
from shared.events.results import TaskResult
from shared.events.tasks import Operation
from shared.logs import about
from shared.settings import Settings

# So long a request waits while the number of partitions is being changed, before it is told to come again.
PATIENCE_S = 10.0
CHANGE = "partitions_change"
TEMPORARY = {
    "closed": "the number of partitions is being changed: no new task is taken for a moment",
    "elsewhere": "the log has another number of partitions than this gateway started with: it has to start again",
}
# W3C Trace Context, version 00. A header of another form is not passed on.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task that is durable, and its result where that has come."""

    task_id: UUID
    request_id: str
    event: Envelope
    result: TaskResult | None
    remaining: dict[str, str]
    """Headers that say what remains of the limits."""


@dataclass(frozen=True, slots=True)
class Listened:
    """A task that is durable, its pieces, and its result once it has ended."""

    task_id: UUID
    tenant_id: UUID
    future: asyncio.Future[TaskResult]
    feed: Feed
    had_ended: bool
    """Before it was submitted this time: no pieces will come."""


class Door:
    """The services behind the HTTP routes."""

    def __init__(
        self,
        keeper: Doorkeeper,
        acceptor: Acceptor,
        capacity: Capacity,
        results: Results,
        listening: Listening,
        history: History,
        clock: Clock,
        settings: Settings,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.keeper = keeper
        self.results = results
        self.listening = listening
        self.history = history
        self.settings = settings
        self.patience_s = patience_s
        self._acceptor = acceptor
        self._capacity = capacity
        self.clock = clock

    async def body(self, request: Request) -> bytes:
        """The request's body. Raises Problem 413 before more than the bound is read."""
        bound = self.settings.max_body_bytes
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > bound:
            raise too_large(f"the body has {length} bytes; at most {bound} are taken")
        parts, size = [], 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > bound:
                    raise too_large(f"the body has more than {bound} bytes")
                parts.append(part)
        except ClientDisconnect as error:
            raise Problem(400, "incomplete_body", "the body ended before all of it was there") from error
        return b"".join(parts)

    async def submit(
        self,
        request: Request,
        key: Key,
        task: TaskRequest,
        *,
        origin: str,
        wait_s: float,
        operation: Operation = "chat",
    ) -> Submitted:
        """Submit and wait up to `wait_s`. Raises Problem 403, 409, 422, 503."""
        with _span(request, task) as traceparent:
            return await self._submit(request, key, task, origin, wait_s, operation, traceparent)

    async def _submit(
        self,
        request: Request,
        key: Key,
        task: TaskRequest,
        origin: str,
        wait_s: float,
        operation: Operation,
        traceparent: str | None,
    ) -> Submitted:
        event = self._event(request, key, task, origin, operation, traceparent)
        structlog.contextvars.bind_contextvars(**about(event))  # each request has a context of its own
        task_id = UUID(event.subject)
        try:
            remaining: dict[str, str] = {}
            if wait_s > 0:
                async with self.results.expect(task_id) as future:
                    found = await self._accept(event, origin, task, _is_named(request, task))
                    result = found.result
                    if result is None:
                        async with self._presence(found, key.tenant_id, task_id):
                            result = await self.results.wait(key.tenant_id, task_id, future, wait_s)
                    remaining = {**self.remaining(task_id), **model_of(result)}
            else:
                result = (await self._accept(event, origin, task, _is_named(request, task))).result
        except TooManyWait as error:
            raise Problem(503, "too_many_wait", str(error), retry_after_s=1) from error
        return Submitted(task_id, event.data.task.request_id, event, result, remaining)  # type: ignore[attr-defined]

    @asynccontextmanager
    async def _presence(self, found: Acceptance, tenant_id: UUID, task_id: UUID) -> AsyncIterator[None]:
        """While the task is waited for that was submitted before: should its answer be streamed to somebody else, it is
        wanted here too when they leave. Where the log cannot be listened to, that is not said."""
        async with AsyncExitStack() as stack:
            if found.status == "duplicate":
                with suppress(RedisError, OSError):
                    await stack.enter_async_context(self.listening.listen(tenant_id, task_id))
            yield

    def remaining(self, task_id: UUID) -> dict[str, str]:
        """What remains of the limits, as headers, while the task is expected; nothing where it was decided before."""
        return headers_of(self.results.decision(task_id), self.clock.now_ms())

    @asynccontextmanager
    async def submit_streamed(
        self, request: Request, key: Key, task: TaskRequest, *, origin: str, operation: Operation = "chat"
    ) -> AsyncIterator[Listened]:
        """Submit, and listen to the answer while it comes; who leaves this block has left. Raises as `submit`."""
        try:
            async with AsyncExitStack() as stack:
                traceparent = stack.enter_context(_span(request, task))
                event = self._event(request, key, task, origin, operation, traceparent, stream=True)
                structlog.contextvars.bind_contextvars(**about(event))
                task_id = UUID(event.subject)
                future = await stack.enter_async_context(self.results.expect(task_id))
                try:
                    feed, result = await self._listen_and_accept(stack, event, origin, task, _is_named(request, task))
                    await feed.confirmed()
                except (RedisError, OSError, TimeoutError) as error:
                    raise Problem(503, "log_unreachable", "the log cannot be reached", retry_after_s=1) from error
                if result is not None and not future.done():
                    future.set_result(result)
                yield Listened(task_id, key.tenant_id, future, feed, result is not None)
        except TooManyWait as error:
            raise Problem(503, "too_many_wait", str(error), retry_after_s=1) from error

    async def _listen_and_accept(
        self, stack: AsyncExitStack, event: Envelope, origin: str, task: TaskRequest, named: bool
    ) -> tuple[Feed, TaskResult | None]:
        """The task's pieces, heard from before it is accepted, in the partition in which it is."""
        assert event.tenantid is not None
        deadline = asyncio.get_running_loop().time() + self.patience_s
        while True:
            async with AsyncExitStack() as trial:
                feed = await trial.enter_async_context(self.listening.listen(event.tenantid, UUID(event.subject)))
                try:
                    result = (await self._accept(event, origin, task, named, patience_s=0)).result
                except Problem as problem:
                    left_s = deadline - asyncio.get_running_loop().time()
                    if problem.code != CHANGE or left_s <= 0:
                        raise
                else:
                    stack.push_async_exit(trial.pop_all())
                    return feed, result
            await self._acceptor.reopened(event.tenantid, left_s)

    def _event(
        self,
        request: Request,
        key: Key,
        task: TaskRequest,
        origin: str,
        operation: Operation,
        traceparent: str | None,
        *,
        stream: bool = False,
    ) -> Envelope:
        """The event that accepting this task appends."""
        if task.tenant_id not in (None, key.tenant_id):
            raise Problem(403, "wrong_tenant", "this key belongs to another tenant")
        if self._capacity.problem:
            raise Problem(503, "log_full", self._capacity.problem, retry_after_s=5)
        request_id = header(request, "idempotency-key")
        try:
            if request_id is not None and name_of(request_id, "Idempotency-Key") != (task.request_id or request_id):
                raise Problem(422, "two_request_ids", "Idempotency-Key and request_id differ; give one of them")
            return submission(
                task,
                tenant_id=key.tenant_id,
                user_id=user_for(key, task.user_id),
                request_id=task.request_id or request_id or str(uuid4()),
                origin=origin,
                now_ms=self.clock.now_ms(),
                settings=self.settings,
                environ=os.environ,
                traceparent=traceparent,
                operation=operation,
                stream=stream,
                key_id=key.key_id,
                privacy=self.keeper.privacy_of(key.tenant_id),
            )
        except Invalid as error:
            raise Problem(422, "invalid_task", str(error)) from error

    async def _accept(
        self, event: Envelope, origin: str, task: TaskRequest, named: bool, patience_s: float | None = None
    ) -> Acceptance:
        """With the result that is there already, if it is; from here on the task is durable. Raises Problem."""
        patience_s = self.patience_s if patience_s is None else patience_s
        try:
            acceptance = await self._acceptor.accept(event, named=named, reply_to=task.reply_to, patience_s=patience_s)
        except (RedisError, OSError) as error:
            SUBMISSIONS.labels(origin, "unreachable").inc()
            problem = "the log cannot be reached: submit it again with the same request id"
            raise Problem(503, "log_unreachable", problem, retry_after_s=1) from error
        SUBMISSIONS.labels(origin, acceptance.status).inc()
        if acceptance.status == "conflict":
            raise Problem(409, "idempotency_conflict", "this request id was used with another body or by another user")
        if acceptance.status == "full":
            raise Problem(503, "log_full", "the log is full: the services are behind", retry_after_s=5)
        if acceptance.status in TEMPORARY:
            raise Problem(503, CHANGE, TEMPORARY[acceptance.status], retry_after_s=1)
        if acceptance.status == "forgotten":
            return replace(acceptance, result=await self._remembered(event))
        return acceptance

    async def _remembered(self, event: Envelope) -> TaskResult | None:
        assert event.tenantid is not None and event.userid is not None
        try:
            return await self.history.result(event.tenantid, event.userid, UUID(event.subject))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise Problem(503, "ledger_unreachable", "the ledger cannot be read", retry_after_s=2) from error


def _span(request: Request, task: TaskRequest) -> AbstractContextManager[str | None]:
    trace = request.headers.get("traceparent", "")
    return tracing.request(f"submit {task.task_type.value}", trace if _TRACEPARENT.fullmatch(trace) else None)


def _is_named(request: Request, task: TaskRequest) -> bool:
    return task.request_id is not None or "idempotency-key" in request.headers


def header(request: Request, name: str) -> str | None:
    """A header as its sender wrote it: in UTF-8, as clients write what is not ASCII, where it can be read so. Else an
    `Idempotency-Key` would not be the `request_id` of the same letters."""
    value = request.headers.get(name)
    if value is None or value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def too_large(detail: str) -> Problem:
    """The problem for a body over the bound."""
    return Problem(413, "too_large", detail)


def wait_of(request: Request, most_s: float) -> float:
    """Seconds of `Prefer: wait=N` (RFC 7240), at most `most_s`; 0 without it."""
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].strip().partition("=")  # behind `;` are its parameters
        if name.strip().lower() == "wait":
            try:
                return min(max(0.0, float(value.strip().strip('"'))), most_s)
            except ValueError as error:
                raise Problem(422, "invalid_prefer", "Prefer: wait takes seconds, as in `wait=10`") from error
    return 0.0
