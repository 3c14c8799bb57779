"""What a command to the log server costs its client: redis-py as it comes, and as `shared.streams.connection` uses it,
in turns, by CPU time; alone, and as scripts travel (`ScriptPipeline`)."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis

from shared.streams.connection import connect
from shared.streams.direct import SOCKET_TIMEOUT_S
from shared.streams.pipeline import ScriptPipeline
from skeldir.embedded.valkey import EmbeddedValkey
from tests.bench.figures import Figure

TURNS = 15
COMMANDS = 1000


def measure() -> list[Figure]:
    """The median of the turns, each way."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder:
        valkey = EmbeddedValkey(Path(folder))
        valkey.start()
        try:
            spent = uvloop.run(_measure(valkey.url("admin")))
        finally:
            valkey.stop()
    return [Figure(f"CPU of a command, {way}", f"{statistics.median(of):.0f} µs") for way, of in spent.items()]


async def _measure(url: str) -> dict[str, list[float]]:
    plain: Any = Redis.from_url(url, socket_timeout=SOCKET_TIMEOUT_S)
    ours = connect(url, client_name="bench")
    together = ScriptPipeline(ours)

    async def plain_pipeline() -> None:
        batch = plain.pipeline(transaction=False)
        batch.execute_command("GET", "nothing")
        await batch.execute()

    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "redis-py": lambda: plain.execute_command("GET", "nothing"),
        "ours": lambda: ours.execute_command("GET", "nothing"),
        "redis-py, a pipeline of one": plain_pipeline,
        "ours, the shared pipeline": lambda: together.command("GET", "nothing"),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, ask in ways.items():
            began = time.process_time()
            for _ in range(COMMANDS):
                await ask()
            spent[way].append((time.process_time() - began) / COMMANDS * 1e6)
    await plain.aclose()
    await ours.aclose()
    return spent


if __name__ == "__main__":
    for figure in measure():
        print(f"{figure.what}: {figure.value}")
