"""The one clock: what a process believes before it has asked the log server is nobody's time."""

from __future__ import annotations

import asyncio

from shared.clock import ServerClock

SERVER_S = 1_795_000_000


async def test_work_begins_when_the_servers_time_is_known() -> None:
    """An executor whose own clock was hours ahead gave back every decision that it took before its first reading."""
    clock = ServerClock()
    seen: list[int] = []

    async def worker() -> None:
        seen.append(clock.now_ms())

    working = asyncio.create_task(clock.first(worker)())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not seen
    clock.synchronise(SERVER_S, 0)
    async with asyncio.timeout(60):
        await working
    assert seen[0] // 10_000 == SERVER_S // 10
