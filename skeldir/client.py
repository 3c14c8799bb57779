"""A client for producers in Python, blocking or asyncio: tasks in, results out, each paid for once.

    from skeldir import Client

    with Client("http://127.0.0.1:8080", key="sk-skeldir-...") as skeldir:
        result = skeldir.run("route", {"text": "where to?"})
        print(result.status, result.output_text, result.usage.cost_cents)

Every task gets a request id before it is sent. So whatever happens on the way, the client may send it again: the same
id is the same task, and is neither called nor charged twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import UUID, uuid4

import httpx

from shared.events.results import TaskResult

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
# One request waits at most so long at the gateway; a longer wait is several requests.
WAIT_S = 30.0
GRACE_S = 10.0
_AGAIN = frozenset({429, 502, 503, 504})


class SkeldirError(Exception):
    """The gateway refused the request, or could not be reached in time. `status` is 0 where there was no answer."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}" if code else detail)
        self.status = status
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Pending:
    """A task that was accepted and has not ended."""

    task_id: UUID
    request_id: str


@dataclass(frozen=True, slots=True)
class _Again:
    """The request makes sense once more, after so many seconds."""

    wait_s: float
    why: SkeldirError


def _body(task_type: str, prompt: Mapping[str, Any], request_id: str | None, more: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        name: str(value) if isinstance(value, UUID) else value for name, value in more.items() if value is not None
    }
    return {"task_type": task_type, "prompt": dict(prompt), "request_id": request_id or str(uuid4()), **given}


def _read(reply: httpx.Response | httpx.TransportError, tries: int) -> TaskResult | Pending | _Again:
    """What an answer means. Raises SkeldirError for a refusal that another try would not change."""
    pause_s = min(FIRST_RETRY_S * 2.0**tries, LAST_RETRY_S)
    if isinstance(reply, httpx.TransportError):
        return _Again(pause_s, SkeldirError(0, "unreachable", str(reply) or type(reply).__name__))
    if reply.is_success:
        body = reply.json()
        if body["status"] == "pending":
            return Pending(UUID(body["task_id"]), body["request_id"])
        return TaskResult.model_validate(body)
    try:
        problem = reply.json()
        error = SkeldirError(reply.status_code, problem.get("code", ""), problem.get("detail", reply.reason_phrase))
    except (ValueError, AttributeError):
        error = SkeldirError(reply.status_code, "", reply.reason_phrase)
    if reply.status_code not in _AGAIN:
        raise error
    with contextlib.suppress(KeyError, ValueError):  # RFC 9110 also has dates there; no gateway of ours sends one
        pause_s = max(pause_s, float(reply.headers["retry-after"]))
    return _Again(pause_s, error)


class _Clock:
    """How long one call of the client may still take."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        return self._ends_at - time.monotonic()

    def next_wait(self) -> dict[str, str]:
        return {"Prefer": f"wait={max(0.0, min(self.left_s, WAIT_S)):.3f}"}

    def pause(self, again: _Again) -> float:
        """Seconds until the next try. Raises what went wrong where no time is left for one."""
        if again.wait_s >= self.left_s:
            raise again.why
        return again.wait_s


def _late(pending: Pending, timeout_s: float) -> SkeldirError:
    return SkeldirError(0, "pending", f"task {pending.task_id} has not ended within {timeout_s:g} s; ask for it again")


def _settings(url: str, key: str) -> dict[str, Any]:
    # All connections may rest: httpx (0.28) closes surplus ones beside threads that are about to send on them.
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    headers = {"Authorization": f"Bearer {key}"}
    return {"base_url": url, "headers": headers, "timeout": WAIT_S + GRACE_S, "limits": limits}


class Client:
    """A blocking client. `timeout_s` bounds each call, retries and the wait for the result included."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 120.0) -> None:
        self._timeout_s = timeout_s
        self._http = httpx.Client(**_settings(url, key))

    def submit(
        self, task_type: str, prompt: Mapping[str, Any], *, request_id: str | None = None, **more: Any
    ) -> Pending | TaskResult:
        """Hand a task in: it is durable when this returns. The result, where it has ended already.

        `more`: `user_id`, `correlation_id`, `max_cost_cents`. Raises SkeldirError.
        """
        return self._post(_body(task_type, prompt, request_id, more), _Clock(self._timeout_s), wait=False)

    def run(
        self, task_type: str, prompt: Mapping[str, Any], *, request_id: str | None = None, **more: Any
    ) -> TaskResult:
        """Hand a task in, and wait for its end. A blocked or failed task is a result, too. Raises SkeldirError."""
        body, clock = _body(task_type, prompt, request_id, more), _Clock(self._timeout_s)
        while isinstance(said := self._post(body, clock, wait=True), Pending):
            if clock.left_s <= FIRST_RETRY_S:
                raise _late(said, self._timeout_s)
            time.sleep(FIRST_RETRY_S)
        return said

    def result(self, task_id: UUID) -> TaskResult | Pending:
        """What has become of a task. Raises SkeldirError (404: it is not this key's)."""
        return self._send(lambda: self._http.get(f"/v1/tasks/{task_id}"), _Clock(self._timeout_s))

    def _post(self, body: dict[str, Any], clock: _Clock, *, wait: bool) -> TaskResult | Pending:
        return self._send(
            lambda: self._http.post("/v1/tasks", json=body, headers=clock.next_wait() if wait else {}), clock
        )

    def _send(self, send: Any, clock: _Clock) -> TaskResult | Pending:
        tries = 0
        while True:
            try:
                said = _read(send(), tries)
            except httpx.TransportError as error:
                said = _read(error, tries)
            if not isinstance(said, _Again):
                return said
            tries += 1
            time.sleep(clock.pause(said))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """As Client, for asyncio."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 120.0) -> None:
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(**_settings(url, key))

    async def submit(
        self, task_type: str, prompt: Mapping[str, Any], *, request_id: str | None = None, **more: Any
    ) -> Pending | TaskResult:
        """As `Client.submit`."""
        return await self._post(_body(task_type, prompt, request_id, more), _Clock(self._timeout_s), wait=False)

    async def run(
        self, task_type: str, prompt: Mapping[str, Any], *, request_id: str | None = None, **more: Any
    ) -> TaskResult:
        """As `Client.run`."""
        body, clock = _body(task_type, prompt, request_id, more), _Clock(self._timeout_s)
        while isinstance(said := await self._post(body, clock, wait=True), Pending):
            if clock.left_s <= FIRST_RETRY_S:
                raise _late(said, self._timeout_s)
            await asyncio.sleep(FIRST_RETRY_S)
        return said

    async def result(self, task_id: UUID) -> TaskResult | Pending:
        """As `Client.result`."""
        return await self._send(lambda: self._http.get(f"/v1/tasks/{task_id}"), _Clock(self._timeout_s))

    async def _post(self, body: dict[str, Any], clock: _Clock, *, wait: bool) -> TaskResult | Pending:
        return await self._send(
            lambda: self._http.post("/v1/tasks", json=body, headers=clock.next_wait() if wait else {}), clock
        )

    async def _send(self, send: Any, clock: _Clock) -> TaskResult | Pending:
        tries = 0
        while True:
            try:
                said = _read(await send(), tries)
            except httpx.TransportError as error:
                said = _read(error, tries)
            if not isinstance(said, _Again):
                return said
            tries += 1
            await asyncio.sleep(clock.pause(said))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
