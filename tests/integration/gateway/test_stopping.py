"""A gateway that is told to stop: it says so, and nobody who waits is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import httpx
from redis.asyncio import Redis
from starlette.applications import Starlette

from services.gateway.results import Results
from shared.service import Leaving, health_routes
from shared.streams.growing import Partitions


async def test_who_leaves_says_so_and_closes_each_connection_with_its_answer() -> None:
    leaving = Leaving(Starlette(routes=health_routes(dict)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(leaving), base_url="http://gateway") as client:
        before = await client.get("/readyz")
        assert before.status_code == 200 and "connection" not in before.headers
        leaving.begin()
        assert (await client.get("/readyz")).status_code == 503
        still = await client.get("/healthz")
        assert (still.status_code, still.headers["connection"]) == (200, "close")


async def test_who_waits_is_told_before_the_end_that_it_is_pending(redis_as: Callable[[str], Redis]) -> None:
    results = Results(redis_as("gateway"), Partitions(1))
    task_id = uuid4()
    async with results.expect(task_id) as future, asyncio.timeout(10):
        waiting = asyncio.create_task(results.wait(uuid4(), task_id, future, 60))
        await asyncio.sleep(0)
        results.wind_up(0.05)
        assert await waiting is None
