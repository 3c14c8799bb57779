"""How late a call may start after a kill switch was acknowledged, with twenty-five thousand allowed tasks waiting."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from redis.asyncio import Redis

from shared.streams.connection import connect
from skeldir.embedded import EmbeddedValkey
from tests.bench.figures import Figure, milliseconds
from tests.integration.executor.conftest import Bench
from tests.integration.executor.test_stops import last_starts

# More than an executor gets through while the orders are given.
WAITING, ORDERS, ROUNDS = 25_000, 50, 4


async def measure() -> list[Figure]:
    """Fifty orders into each of four backlogs."""
    lags: list[float] = []
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder:
        server = EmbeddedValkey(Path(folder))
        server.start()
        opened: list[Redis] = []

        def redis_as(role: str) -> Redis:
            opened.append(connect(server.url(role), client_name=f"bench-{role}"))
            return opened[-1]

        try:
            for _ in range(ROUNDS):
                lags += (await last_starts(Bench(redis_as), server.url("operator"), waiting=WAITING, orders=ORDERS))[0]
            await asyncio.gather(*(one.aclose() for one in opened))
        finally:
            server.stop()
    said = "last call start after the acknowledgement (below 0: before it)"
    return [Figure(f"{said}, {len(lags)} orders", milliseconds(lags))]


if __name__ == "__main__":
    for figure in asyncio.run(measure()):
        print(f"{figure.what}: {figure.value}")
