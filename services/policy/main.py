"""The policy service: one writer for each partition whose lease this process can get."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from functools import partial

from redis.exceptions import RedisError
from starlette.applications import Starlette

from services.policy.metrics import LEADS, show_provider_breakers
from services.policy.partition import PartitionWriter
from services.policy.provider_breakers.writer import BreakerWriter
from shared.clock import ServerClock
from shared.partitions import Partition
from shared.service import Worker, health_routes, run
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from shared.streams.spread import Spread


async def serve(settings: Settings) -> None:
    """Decide until stopped."""
    owner = f"policy-{os.getpid()}-{secrets.token_hex(4)}"
    assert settings.redis_url is not None, "the command line checks that"
    redis = connect(settings.redis_url, client_name=owner, min_replicas=settings.min_replicas)
    clock = ServerClock()
    control = ControlReader(redis, settings.control_staleness_ms)
    partitions = Partitions(settings.partitions)
    partitions.listen(control)
    writers: dict[int, PartitionWriter] = {}
    spread = Spread(lambda: sum(1 for writer in writers.values() if writer.token), settings.lease_ttl_ms / 1000)

    def writer_of(partition: Partition) -> PartitionWriter:
        made = PartitionWriter(redis, partition, owner, control, clock, settings, partitions, spread)
        return writers.setdefault(partition.number, made)

    for one in partitions.all:
        writer_of(one)
    breakers = BreakerWriter(redis, owner, clock, partitions, settings)
    control.on_change(show_provider_breakers)
    LEADS.set_function(lambda: spread.held)

    def readiness() -> dict[str, str | None]:
        checks = {f"partition {n}": writer.problem for n, writer in writers.items()}
        checks["breakers of models"] = breakers.problem
        return {"control": "the control stream cannot be read" if control.is_stale else None, **checks}

    app = Starlette(routes=health_routes(readiness))
    workers: list[Worker] = [control.follow, partial(clock.follow, redis), partial(partitions.follow, redis)]
    workers.append(clock.first(partial(partitions.each, lambda partition: writer_of(partition).run())))
    if settings.provider_breaker_enabled:
        workers.append(clock.first(breakers.run))
    try:
        await run("policy", app, settings.policy_host, settings.policy_port, workers, settings)
    finally:
        with suppress(RedisError, asyncio.TimeoutError):
            await asyncio.gather(breakers.stop(), *(writer.stop() for writer in writers.values()))
        await redis.aclose()
