"""A streamed answer: each piece goes on as it came, and the end of the task ends the stream (ADR 9)."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway import openai_shape
from services.gateway.dialects import Dialect
from services.gateway.door import Door, Listened
from services.gateway.listening import PiecesMissing
from services.gateway.problems import Problem, respond
from services.gateway.submission import TaskRequest
from shared.control_state import Key
from shared.events.results import TaskResult

# Longer than any provider call may take: a stream that has begun ends with its task.
MOST_S = 86_400.0
# After the end of the task its last pieces may be still under way to us.
LAST_PIECES_S = 2.0

log = structlog.get_logger(__name__)


class StreamedAnswer(Response):
    """The response to a request with `stream: true`. A client that leaves ends it, and with it the call."""

    def __init__(self, door: Door, request: Request, key: Key, task: TaskRequest, dialect: Dialect) -> None:
        super().__init__()
        self._door = door
        self._request = request
        self._key = key
        self._task = task
        self._dialect = dialect
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming = asyncio.create_task(self._stream(scope, receive, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({streaming, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not streaming.done():
                streaming.cancel()
                with suppress(asyncio.CancelledError):
                    await streaming
        if not streaming.cancelled():
            with suppress(OSError):  # it left while we were sending
                streaming.result()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._door.submit_streamed(
                self._request, self._key, self._task, origin="openai", operation=self._dialect.operation
            ) as listened:
                await self._forward(listened, send)
        except Problem as problem:
            if self._started:
                await _send(send, self._dialect.error(problem), more=False)
            else:
                await respond(self._request, problem)(scope, receive, send)

    async def _forward(self, listened: Listened, send: Send) -> None:
        """Pieces until the task has ended, then its end. Raises Problem for an end that is no answer."""
        ending = asyncio.create_task(
            self._door.results.wait(listened.tenant_id, listened.task_id, listened.future, MOST_S)
        )
        deadline = time.monotonic() + self._door.settings.max_wait_seconds
        pieces = asyncio.create_task(listened.feed.pieces())
        try:
            while not ending.done():
                left_s = None if self._started else max(0.0, deadline - time.monotonic())
                done, _ = await asyncio.wait({ending, pieces}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    detail = f"task {listened.task_id} has not begun to answer in time"
                    raise Problem(504, "still_pending", detail, retry=False)
                if pieces in done:
                    try:
                        await self._pass_on(pieces.result(), listened, send)
                    except PiecesMissing:
                        if self._started:
                            raise _missing(listened) from None
                        # It had begun before we listened: its result will say all of it.
                        await asyncio.wait({ending})
                        break
                    pieces = asyncio.create_task(listened.feed.pieces())
            result = ending.result()
            if result is None:
                raise Problem(504, "still_pending", f"task {listened.task_id} has not ended", retry=False)
            if not listened.had_ended:
                pieces = await self._last_pieces(result, pieces, listened, send)
        finally:
            ending.cancel()
            pieces.cancel()
            with suppress(PiecesMissing, asyncio.CancelledError):
                await pieces
        await self._end(result, listened, send)

    async def _last_pieces(
        self, result: TaskResult, pieces: asyncio.Task[list[bytes]], listened: Listened, send: Send
    ) -> asyncio.Task[list[bytes]]:
        with suppress(TimeoutError, PiecesMissing):
            async with asyncio.timeout(LAST_PIECES_S):
                while listened.feed.taken < result.chunks:
                    await self._pass_on(await pieces, listened, send)
                    pieces = asyncio.create_task(listened.feed.pieces())
        return pieces

    async def _end(self, result: TaskResult, listened: Listened, send: Send) -> None:
        if problem := openai_shape.problem_of(result):
            problem.headers |= self._door.remaining(listened.task_id)
            raise problem
        if not self._started:
            await self._start(listened, send)
            for event in self._dialect.whole(result):
                await _send(send, event)
            await _send(send, b"", more=False)
        elif listened.feed.taken < result.chunks:
            raise _missing(listened)
        else:
            await _send(send, self._dialect.end, more=False)

    async def _pass_on(self, pieces: list[bytes], listened: Listened, send: Send) -> None:
        await self._start(listened, send)
        if said := self._dialect.pieces(pieces):
            await _send(send, said)

    async def _start(self, listened: Listened, send: Send) -> None:
        if self._started:
            return
        self._started = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-skeldir-task-id", str(listened.task_id).encode()),
            *((name.encode(), value.encode()) for name, value in self._door.remaining(listened.task_id).items()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


def _missing(listened: Listened) -> Problem:
    detail = f"pieces of the answer were lost; task {listened.task_id} has all of it: ask with the same Idempotency-Key"
    return Problem(502, "pieces_missing", detail, retry=False)


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _left(receive: Receive) -> None:
    """Until the client has gone. Its body has been read: nothing else can come."""
    while (await receive())["type"] != "http.disconnect":
        pass
