"""The log server's client: a task that is told to stop stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.asyncio import Redis


async def test_a_cancellation_is_never_forgotten(redis_as: Callable[[str], Redis]) -> None:
    """Whenever it comes: while the command is sent, while its reply is awaited, or in between."""
    redis = redis_as("executor")

    async def reads_for_ever() -> None:
        while True:
            await redis.xread({"skeldir:control": "$"}, block=20)

    for turns in range(60):
        task = asyncio.create_task(reads_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=2)
        assert done, f"cancelled after {turns} turns of the loop, and went on"


async def test_cleaning_up_after_a_cancellation_may_still_use_the_client(redis_as: Callable[[str], Redis]) -> None:
    redis = redis_as("executor")
    cleaned: list[object] = []

    async def reads_then_cleans() -> None:
        try:
            await redis.xread({"skeldir:control": "$"}, block=2000)
        finally:
            cleaned.append(await redis.ping())

    task = asyncio.create_task(reads_then_cleans())
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled() and cleaned == [True]


async def test_connections_that_the_server_closed_are_not_used_again(redis_as: Callable[[str], Redis]) -> None:
    """After a restart of the server: each idle one would fail once, minutes later perhaps, for a caller at the door."""
    redis, admin = redis_as("executor"), redis_as("admin")
    await asyncio.gather(*(redis.xread({"skeldir:control": "$"}, block=50) for _ in range(5)))
    idle = list(redis.connection_pool._available_connections)
    assert len(idle) == 5
    await admin.client_kill_filter(user="executor", skipme=True)
    async with asyncio.timeout(5):
        while not all([await one.can_read() for one in idle]):
            await asyncio.sleep(0.01)
    assert await asyncio.gather(*(redis.ping() for _ in range(10))) == [True] * 10
