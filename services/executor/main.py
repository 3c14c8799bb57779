"""The executor service: any number of these share the decisions of every partition."""

from __future__ import annotations

import asyncio
import os
import secrets
from functools import partial

from starlette.applications import Starlette

from services.executor import providers
from services.executor.attempts import Attempts
from services.executor.journal import Journal
from services.executor.performance import Performer
from services.executor.room import Room
from services.executor.worker import PartitionWorker
from shared.clock import ServerClock
from shared.partitions import Partition
from shared.service import Worker, health_routes, run
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.control_reader import ControlReader


async def serve(settings: Settings) -> None:
    """Perform what policy allowed, until stopped."""
    name = f"executor-{os.getpid()}-{secrets.token_hex(4)}"
    assert settings.redis_url is not None, "the command line checks that"
    redis = connect(
        settings.redis_url,
        client_name=name,
        min_replicas=settings.min_replicas,
        max_connections=4 * settings.partitions + 64,
    )
    clock = ServerClock()
    control = ControlReader(redis, settings.control_staleness_ms)
    known = providers.by_name(settings)
    room = Room(settings.executor_concurrency)
    journal = Journal(redis, name, settings)
    attempts = Attempts(name, journal, control, clock, known, settings)
    performer = Performer(name, journal, attempts, control, clock, settings)
    workers = [
        PartitionWorker(redis, Partition(number), name, performer, control, room, settings)
        for number in range(settings.partitions)
    ]

    def readiness() -> dict[str, str | None]:
        checks = {f"partition {n}": worker.problem for n, worker in enumerate(workers)}
        return {"control": "the control stream cannot be read" if control.is_stale else None, **checks}

    app = Starlette(routes=health_routes(readiness))
    tasks: list[Worker] = [control.follow, partial(clock.follow, redis)]
    tasks += [clock.first(worker.run) for worker in workers]
    try:
        await run("executor", app, settings.executor_host, settings.executor_port, tasks, settings)
    finally:
        await attempts.close()
        await asyncio.gather(*(provider.close() for provider in known.values()))
        await redis.aclose()
