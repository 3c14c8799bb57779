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
