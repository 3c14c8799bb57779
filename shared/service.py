"""The shell around every service: its HTTP server, its workers, its logs, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from shared import tracing
from shared.settings import Settings

Readiness = Callable[[], Mapping[str, str | None]]
Worker = Callable[[], Coroutine[Any, Any, None]]

OWNER_LOOK_S = 0.5
GRACE_S = 10.0
GC_THRESHOLDS = (50_000, 20, 100)

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


async def run(name: str, app: ASGIApp, host: str, port: int, workers: Sequence[Worker], settings: Settings) -> None:
    """Serve `app` and run `workers` until SIGTERM, SIGINT, or the owner is gone.

    A worker that ends or raises stops the process (RuntimeError): half a service is worse than one that starts again.
    """
    structlog.contextvars.bind_contextvars(service=name)
    tracing.start(name)
    # What is loaded by now lives as long as the process, and events hardly ever make cycles: searching for them as
    # often as Python does by itself costs a tenth of the CPU (`python -m tests.bench.chain`).
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=5
    )
    server = _Server(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = {asyncio.create_task(_named(worker), name=f"worker {i}") for i, worker in enumerate(workers)}
    serving = asyncio.create_task(server.serve(), name="http")
    stopping = asyncio.create_task(_stop_wanted(stop, settings.owner_pid), name="stop")
    log.info("starts", host=host, port=port)
    try:
        done, _ = await asyncio.wait({serving, stopping, *running}, return_when=asyncio.FIRST_COMPLETED)
        if stopping not in done:
            for task in done:
                raise RuntimeError(f"{name}: {task.get_name()} ended") from task.exception()
    finally:
        log.info("stops")
        server.should_exit = True
        for task in (stopping, *running):
            task.cancel()
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await asyncio.gather(serving, stopping, *running, return_exceptions=True)
        await asyncio.to_thread(tracing.stop)


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
