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
from services.executor.reading import Reading
from services.executor.room import Room
from services.executor.worker import PartitionWorker
from shared.clock import ServerClock
from shared.partitions import Partition
from shared.service import Worker, health_routes, run
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions


async def serve(settings: Settings) -> None:
    """Perform what policy allowed, until stopped."""
    name = f"executor-{os.getpid()}-{secrets.token_hex(4)}"
    assert settings.redis_url is not None, "the command line checks that"
    redis = connect(settings.redis_url, client_name=name, min_replicas=settings.min_replicas)
    clock = ServerClock()
    control = ControlReader(redis, settings.control_staleness_ms)
    known = providers.by_name(settings)
    room = Room(settings.executor_concurrency)
    partitions = Partitions(settings.partitions)
    partitions.listen(control)
    journal = Journal(redis, name, settings, partitions)
    attempts = Attempts(name, journal, control, clock, known, settings)
    performer = Performer(name, journal, attempts, control, clock, settings)
    workers: dict[int, PartitionWorker] = {}

    def worker_of(partition: Partition) -> PartitionWorker:
        made = PartitionWorker(redis, partition, name, performer, room, settings)
        return workers.setdefault(partition.number, made)

    known_at_first = {one.decisions: worker_of(one) for one in partitions.all}
    first = {
        streams[0]: [known_at_first[stream] for stream in streams] for streams in redis.apart(list(known_at_first))
    }

    async def read(partition: Partition) -> None:
        """By one command what one can name. A partition that comes later has a command of its own."""
        stream = partition.decisions
        if stream in known_at_first and stream not in first:
            await asyncio.Event().wait()  # another one's command reads it, too
        together = first.get(stream) or [worker_of(partition)]
        await Reading(redis, name, together, control, room, settings).run()

    def readiness() -> dict[str, str | None]:
        checks = {f"partition {n}": worker.problem for n, worker in workers.items()}
        return {"control": "the control stream cannot be read" if control.is_stale else None, **checks}

    app = Starlette(routes=health_routes(readiness))
    tasks: list[Worker] = [control.follow, partial(clock.follow, redis), partial(partitions.follow, redis)]
    tasks.append(clock.first(partial(partitions.each, read)))
    try:
        await run("executor", app, settings.executor_host, settings.executor_port, tasks, settings)
    finally:
        await attempts.close()
        await asyncio.gather(*(provider.close() for provider in known.values()))
        await redis.aclose()
