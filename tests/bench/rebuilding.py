"""A rebuild of recorded traffic: how long it takes, and how long a writer waits for it at most.

`python -m tests.bench.rebuilding TASKS` fills a database of its own. First there is no row, then every row is right.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from services.ledger import migrate
from services.ledger.rebuild import rebuild
from skeldir.embedded import EmbeddedPostgres
from tests.bench.figures import Figure
from tests.bench.recorded import Traffic, fill

LOOK_S = 0.005


async def longest_wait(url: str, waits: list[float]) -> None:
    """Take the lock that each commit of a writer takes first, again and again; how long that took."""
    connection: Any = await asyncpg.connect(url)
    try:
        while True:
            async with connection.transaction():
                began = time.perf_counter()
                await connection.execute("LOCK TABLE checkpoints IN ROW EXCLUSIVE MODE", timeout=600)
                waits.append(time.perf_counter() - began)
            await asyncio.sleep(LOOK_S)
    finally:
        connection.terminate()


async def measure(tasks: int) -> list[Figure]:
    """Both rebuilds."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            migrate.upgrade(server.url("skeldir_owner"))
            events = await fill(server.url("postgres"), Traffic(tasks))
            found = []
            for what in ("no row was there", "every row was right"):
                waits: list[float] = []
                probe = asyncio.create_task(longest_wait(server.url("skeldir_ledger"), waits))
                began = time.perf_counter()
                report = await rebuild(server.url("skeldir_owner"))
                took = time.perf_counter() - began
                probe.cancel()
                await asyncio.gather(probe, return_exceptions=True)
                text = f"{took:.1f} s ({events / took:,.0f} a second), a writer waited {max(waits):.2f} s at most"
                found.append(Figure(f"rebuild of {events:,} events, {what}", text))
                assert any(report.changed.values()) == (what == "no row was there")
            return found
        finally:
            server.stop()


if __name__ == "__main__":
    for figure in asyncio.run(measure(int(sys.argv[1]))):
        print(f"{figure.what}: {figure.value}")
