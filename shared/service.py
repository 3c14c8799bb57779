"""The shell around every service: its HTTP server, its workers, its logs, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from math import ceil
from typing import Any

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import tracing
from shared.garbage import collect_less
from shared.settings import Settings

# So long a connection may rest. Longer than clients and proxies keep theirs (the OpenAI client 5 s, load balancers a
# minute): who closes it first is to be the one who sends, or a request meets a connection that is just being closed.
KEEP_ALIVE_S = 75

Readiness = Callable[[], Mapping[str, str | None]]
Leave = Callable[[], None]
Worker = Callable[[], Coroutine[Any, Any, None]]

OWNER_LOOK_S = 0.5
# Who stops with others beside it goes on serving for so long, and says that it leaves: a balancer has seen it by then.
LINGER_S = 1.0
# Beyond the time that work in hand has: for what is written and closed afterwards.
CLOSING_S = 2.0

log = structlog.get_logger(__name__)


def health_routes(readiness: Readiness) -> list[Route]:
    """`/healthz` (the process runs), `/readyz` (503 with the problems while it cannot do its work), `/metrics`."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        checks = dict(readiness())
        ready = all(problem is None for problem in checks.values())
        body = {"status": "ready" if ready else "not ready", "checks": checks}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


class Leaving:
    """An application that, from `begin` on, sends its callers elsewhere: it is not ready, and closes connections."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._begun = False

    def begin(self) -> None:
        """The process is about to stop."""
        self._begun = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._begun or scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        if scope["path"] == "/readyz":
            body = {"status": "not ready", "checks": {"process": "it stops"}}
            await JSONResponse(body, status_code=503)(scope, receive, last)
        else:
            await self._app(scope, receive, last)


def configured(app: ASGIApp, host: str, port: int, settings: Settings) -> uvicorn.Config:
    """How a service is served."""
    return uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, lifespan="on",
        timeout_graceful_shutdown=ceil(settings.drain_seconds), timeout_keep_alive=KEEP_ALIVE_S,
    )  # fmt: skip


async def run(
    name: str,
    app: ASGIApp,
    host: str,
    port: int,
    workers: Sequence[Worker],
    settings: Settings,
    leave: Leave | None = None,
) -> None:
    """Serve `app` and run `workers` until SIGTERM, SIGINT, or the owner is gone.

    A worker that ends or raises stops the process (RuntimeError): half a service is worse than one that starts again.
    `leave`, where requests need the workers until they are answered: it is called first, and then those in hand have
    `SKELDIR_DRAIN_SECONDS` to end.
    """
    structlog.contextvars.bind_contextvars(service=name)
    tracing.start(name)
    collect_less()
    server = _Server(configured(leaving := Leaving(app), host, port, settings))
    running = {asyncio.create_task(_named(worker), name=f"worker {i}") for i, worker in enumerate(workers)}
    serving = asyncio.create_task(server.serve(), name="http")
    stopping = asyncio.create_task(_stop_wanted(_signalled(), settings.owner_pid), name="stop")
    log.info("starts", host=host, port=port)
    try:
        done, _ = await asyncio.wait({serving, stopping, *running}, return_when=asyncio.FIRST_COMPLETED)
        if stopping not in done:
            for task in done:
                raise RuntimeError(f"{name}: {task.get_name()} ended") from task.exception()
        leaving.begin()
        if leave is not None:
            leave()
            if settings.owner_pid is None:
                await asyncio.wait({serving, *running}, timeout=LINGER_S, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await asyncio.wait({serving}, timeout=settings.drain_seconds + CLOSING_S)
    finally:
        log.info("stops")
        server.should_exit = True
        for task in (stopping, *running):
            task.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(settings.drain_seconds + CLOSING_S):
                await asyncio.gather(serving, stopping, *running, return_exceptions=True)
        await asyncio.to_thread(tracing.stop)


async def run_alone(name: str, worker: Worker, settings: Settings) -> None:
    """Run one worker that serves nobody, until SIGTERM, SIGINT, or the owner is gone. Raises what it raises."""
    structlog.contextvars.bind_contextvars(service=name)
    running = asyncio.create_task(_named(worker))
    stopping = asyncio.create_task(_stop_wanted(_signalled(), settings.owner_pid))
    log.info("starts")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        log.info("stops")
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


def _signalled() -> asyncio.Event:
    """Set by SIGTERM and SIGINT, from here on."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn's own handlers would end the process before the workers have stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


async def _named(worker: Worker) -> None:
    await worker()


async def _stop_wanted(stop: asyncio.Event, owner_pid: int | None) -> None:
    """Return when a signal came, or when the process that owns this one is gone."""
    while not stop.is_set():
        if owner_pid is not None and os.getppid() != owner_pid:
            return
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(OWNER_LOOK_S):
                await stop.wait()
