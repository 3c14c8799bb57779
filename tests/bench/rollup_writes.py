"""What the rollups cost the ledger: the same commits into books with them and without, taking turns."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from services.ledger import migrate
from skeldir.embedded import EmbeddedPostgres
from tests.bench.chained_writes import BATCH, BATCHES, ROUNDS, batches, commit
from tests.bench.figures import Figure, quantile


async def measure() -> list[Figure]:
    """Events a second of both, in turns of some batches."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            url = server.url("skeldir_ledger")
            migrate.upgrade(server.url("skeldir_owner"))
            admin: Any = await asyncpg.connect(server.url("postgres"))
            await admin.execute(f'CREATE DATABASE without TEMPLATE "{url.rpartition("/")[2]}"')
            await admin.close()
            without = f"{url.rpartition('/')[0]}/without"
            owner: Any = await asyncpg.connect(f"{server.url('skeldir_owner').rpartition('/')[0]}/without")
            await owner.execute("ALTER TABLE llm_api_calls DISABLE TRIGGER USER")
            await owner.close()
            ways: dict[str, Any] = {"with": await asyncpg.connect(url), "without": await asyncpg.connect(without)}
            took: dict[str, list[float]] = {way: [] for way in ways}
            source, at = batches(), dict[str, str]()
            for turn in range(ROUNDS):
                page = [next(source) for _ in range(BATCHES)]
                for way in sorted(ways, reverse=turn % 2 == 0):
                    began = time.perf_counter()
                    for records in page:
                        await commit(ways[way], records, at, way)
                    took[way].append(BATCH * BATCHES / (time.perf_counter() - began))
            for connection in ways.values():
                await connection.close()
        finally:
            server.stop()
    middle = {way: quantile(rates, 0.5) for way, rates in took.items()}
    ratio = quantile([a / b for a, b in zip(took["with"], took["without"], strict=True)], 0.5)
    return [
        Figure("ledger writes without rollups", f"{middle['without']:,.0f} events a second, median of {ROUNDS} turns"),
        Figure("ledger writes with rollups", f"{middle['with']:,.0f} a second; {ratio:.2f} of it"),
    ]


if __name__ == "__main__":
    for figure in asyncio.run(measure()):
        print(f"{figure.what}: {figure.value}")
