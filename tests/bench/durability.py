"""What durability costs: accepting tasks under each level, the levels taking turns on servers of their own."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from services.gateway.acceptance import Acceptor
from services.gateway.history import History
from services.gateway.recognition import Recognition
from shared.events.envelope import Envelope, new
from shared.events.tasks import Task, TaskSubmitted, TaskType
from shared.money import from_cents
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.growing import Partitions
from skeldir.embedded import EmbeddedValkey
from tests.bench.figures import Figure, milliseconds, quantile

LEVELS = ("everysec", "fsync")
ROUNDS, TASKS = 10, 500
AT_ONCE = (1, 64)


def submitted() -> Envelope:
    """A task as the gateway writes it."""
    task = Task(
        task_id=uuid4(),
        request_id=str(uuid4()),
        task_type=TaskType.ROUTE,
        provider="stub",
        model="model",
        prompt={"text": "x" * 500},
        fingerprint="f" * 64,
        max_cost=from_cents(1),
    )
    payload = TaskSubmitted(task=task)
    about = {"source": "/skeldir/gateway", "subject": str(task.task_id), "now_ms": int(time.time() * 1000)}
    return new(payload, event_id=uuid4(), tenantid=uuid4(), userid=uuid4(), **about)  # type: ignore[arg-type]


async def accept(acceptor: Acceptor, tasks: int, at_once: int) -> tuple[float, list[float]]:
    """Tasks a second, and each one's milliseconds until it was durable."""
    events = iter([submitted() for _ in range(tasks)])
    took: list[float] = []

    async def producer() -> None:
        for event in events:
            began = time.perf_counter()
            await acceptor.accept(event, named=False)
            took.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(producer() for _ in range(at_once)))
    return tasks / (time.perf_counter() - began), took


async def measure() -> list[Figure]:
    """Each level with one producer and with many, in turns."""
    rates: dict[tuple[str, int], list[float]] = {}
    times: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        acceptors = {}
        for level in LEVELS:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="skeldir-bench-"))
            server = EmbeddedValkey(Path(folder), durability=level)
            server.start()
            stack.callback(server.stop)
            log = connect(server.url("gateway"), client_name="bench")
            acceptors[level] = Acceptor(log, Recognition(History(None)), Partitions(4), Settings())
        for _ in range(ROUNDS):
            for at_once in AT_ONCE:
                for level, acceptor in acceptors.items():
                    rate, took = await accept(acceptor, TASKS if at_once > 1 else TASKS // 5, at_once)
                    rates.setdefault((level, at_once), []).append(rate)
                    times.setdefault((level, at_once), []).extend(took)
    return [
        Figure(
            f"accept, {level}, {at_once} at once", f"{quantile(found, 0.5):.0f} a second, {milliseconds(times[key])}"
        )
        for key, found in rates.items()
        for level, at_once in [key]
    ]


if __name__ == "__main__":
    for figure in asyncio.run(measure()):
        print(f"{figure.what}: {figure.value}")
