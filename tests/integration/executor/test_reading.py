"""Several partitions are read by one command, and each one's decisions come to its own worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from services.executor.attempts import Attempts
from services.executor.journal import GROUP, Journal
from services.executor.performance import Performer
from services.executor.reading import Reading
from services.executor.room import Room
from services.executor.worker import PartitionWorker
from shared.clock import ServerClock
from shared.streams.control_reader import ControlReader
from tests.integration.executor.conftest import Bench, Gate, until


@asynccontextmanager
async def reading(benches: list[Bench], gate: Gate, **changed: Any) -> AsyncIterator[Room]:
    """One executor that reads the partitions of all these."""
    settings = benches[0].settings.model_copy(update=changed)
    redis, name = benches[0].redis_as("executor"), "executor-of-several"
    clock, control = ServerClock(), ControlReader(redis, settings.control_staleness_ms)
    room, journal = Room(settings.executor_concurrency), Journal(redis, name, settings)
    attempts = Attempts(name, journal, control, clock, {"stub": gate}, settings)
    performer = Performer(name, journal, attempts, control, clock, settings)
    workers = [PartitionWorker(redis, one.partition, name, performer, room, settings) for one in benches]
    of_all = Reading(redis, name, workers, control, room, settings)
    tasks = [asyncio.create_task(work) for work in (of_all.run(), control.follow(), clock.follow(redis))]
    try:
        yield room
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_each_partition_has_its_ends(redis_as: Callable[[str], Redis]) -> None:
    benches = [Bench(redis_as) for _ in range(3)]
    gate = Gate(is_open=True)
    async with reading(benches, gate) as room:
        for one in benches:
            await one.decide(*(one.allowed() for _ in range(20)))
        for one in benches:
            await one.ends(20)
            await until(one.nothing_is_left)
    assert len(gate.calls) == 60 and room.free == room.places


async def test_with_less_room_than_partitions_none_of_them_starves(redis_as: Callable[[str], Redis]) -> None:
    benches = [Bench(redis_as) for _ in range(4)]
    gate = Gate()
    async with reading(benches, gate, executor_concurrency=2) as room:
        for one in benches:
            await one.decide(*(one.allowed() for _ in range(6)))
        await until(lambda: len(gate.calls) == 2)
        assert room.free == 0
        gate.open()
        for one in benches:
            await one.ends(6)
    assert len(gate.calls) == 24


async def test_one_partitions_lost_group_is_made_again(redis_as: Callable[[str], Redis]) -> None:
    first, second = Bench(redis_as), Bench(redis_as)
    gate = Gate(is_open=True)
    async with reading([first, second], gate):
        for ends in (1, 2):
            for one in (first, second):
                await one.allow()
                await one.ends(ends)
            await second.admin.xgroup_destroy(second.partition.decisions, GROUP)
    assert len(gate.calls) == 4
