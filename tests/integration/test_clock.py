"""Policy and executor do nothing by a time that is not the log server's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from services.executor.main import serve as serve_executor
from services.policy.main import serve as serve_policy
from shared.clock import ServerClock
from shared.partitions import PARTITIONS, Partition
from shared.settings import Settings
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedValkey
from skeldir.embedded.process import free_port

SERVICES = [("executor", serve_executor), ("policy", serve_policy)]


@pytest.mark.parametrize(("name", "serve"), SERVICES, ids=["executor", "policy"])
async def test_nothing_is_read_before_the_servers_time_is_known(
    name: str, serve: Callable[[Settings], Awaitable[None]], valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_read = asyncio.Event()
    follow = ServerClock.follow

    async def follow_later(clock: ServerClock, redis: Redis) -> None:
        await may_read.wait()
        await follow(clock, redis)

    monkeypatch.setattr(ServerClock, "follow", follow_later)
    port = free_port()
    async with connect(valkey.url("admin"), client_name="test") as admin:
        await admin.hset(Partition(0).ledger, "tasks", "0-0")  # as the ledger does for a new partition
        await admin.delete(PARTITIONS)  # other tests have used other partitions of this log
    given: dict[str, Any] = {"redis_url": valkey.url(name), f"{name}_port": port, "partitions": 1}
    serving = asyncio.ensure_future(serve(Settings(**given)))

    async def problem() -> str | None:
        """Of the partition, once the control stream is read."""
        async with asyncio.timeout(45), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    checks = (await client.get(f"http://127.0.0.1:{port}/readyz")).json()["checks"]
                except httpx.HTTPError:
                    checks = {"control": "not up yet"}
                if checks["control"] is None:
                    found: str | None = checks["partition 0"]
                    return found
                await asyncio.sleep(0.02)

    try:
        for _ in range(20):
            assert await problem() is not None, "it began to work by its own clock"
            await asyncio.sleep(0.02)
        may_read.set()
        async with asyncio.timeout(45):
            while await problem() is not None:
                await asyncio.sleep(0.02)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        async with connect(valkey.url("admin"), client_name="test") as admin:
            await admin.delete(PARTITIONS)
