"""How long new tasks wait while a log grows from 2 to 4 partitions, by how many records of tasks are in it.

python -m tests.bench.growing [RECORDS ...]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from shared.partitions import partition_for
from shared.streams.client import LogClient
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedValkey
from skeldir.growing import growth
from tests.integration.growing.test_growth import NEW, OLD, TTL_MS, Log

PAGE = 1000
RESULT = "r" * 600


async def measure(records: int) -> None:
    """One growth, on a server of its own, with nothing else going on."""
    server = EmbeddedValkey(Path(tempfile.mkdtemp()))
    server.start()
    try:
        async with connect(server.url("admin"), client_name="bench") as redis:
            log = Log(redis)
            await log.fill()
            await _fill(redis, list(log.tenants.values()), records)
            at: dict[str, float] = {}
            began = time.perf_counter()

            def note(step: str) -> None:
                at[step] = time.perf_counter()

            done = await growth.grow(redis, NEW, "bench", 60, note)
            print(
                f"{records:>9,} records: {done.copied.tasks:,} moved, copied ahead in "
                f"{at['copied ahead'] - at['wiped']:.1f} s, looked through before in {at['wiped'] - began:.1f} s, "
                f"cleared in {at['cleared'] - at['given back']:.1f} s; new tasks waited {done.closed_s:.2f} s"
            )
    finally:
        server.stop()


async def _fill(redis: LogClient, tenants: list[UUID], records: int) -> None:
    for _ in range(0, records, PAGE):
        commands: list[tuple[Any, ...]] = []
        for number in range(PAGE):
            tenant = tenants[number % len(tenants)]
            key = partition_for(tenant, OLD).task(uuid4())
            fields = {"tenant": tenant, "user": uuid4(), "fingerprint": "f" * 64, "state": "ended", "result": RESULT}
            commands.append(("HSET", key, *(str(word) for pair in fields.items() for word in pair)))
            commands.append(("PEXPIRE", key, TTL_MS))
        await redis.together(commands)


if __name__ == "__main__":
    growth.TAKEN_UP_S = 0
    for count in map(int, sys.argv[1:] or ["0", "10000", "100000"]):
        asyncio.run(measure(count))
