"""What one tenant's flood of slow calls does to others: their latency without it and under it, in one run."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from shared.partitions import INBOX, partition_of
from tests.bench.figures import Figure, milliseconds
from tests.stack import Stack, eventually

PARTITIONS = 4
FLOOD, DELAY_MS = 5000, 2000
RUNS = 40


def tenant_in(partition: int) -> str:
    """A new tenant of that partition."""
    return str(next(one for one in iter(uuid4, UUID(int=0)) if partition_of(one, PARTITIONS) == partition))


def measure() -> list[Figure]:
    """Tasks one after another of a tenant in another partition, and of one in the same."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder)) as stack:
        flooding, near, far = tenant_in(0), tenant_in(0), tenant_in(1)
        keys = {"another partition": stack.key(far, str(uuid4())), "the same partition": stack.key(near, str(uuid4()))}
        found: dict[tuple[str, str], list[float]] = {}

        def tasks_of_others(when: str) -> None:
            for _ in range(RUNS):
                for where, key in keys.items():
                    began = time.perf_counter()
                    assert stack.run(key=key)["status"] == "success"
                    found.setdefault((where, when), []).append((time.perf_counter() - began) * 1000)

        tasks_of_others("without the flood")
        flood(stack, flooding)
        eventually(lambda: in_flight(stack) >= 500, "the flood is there", 60)
        tasks_of_others("under the flood")
        left = in_flight(stack)
    figures = [Figure(f"latency, {where}, {when}", milliseconds(took)) for (where, when), took in found.items()]
    return [*figures, Figure("deliveries of the flood still held at the end", str(left))]


def flood(stack: Stack, tenant: str) -> None:
    """All at once into the inbox: as many as the in-flight bound allows are allowed, the others blocked."""
    user = str(uuid4())
    pipeline: Any = stack.redis().pipeline(transaction=False)
    for number in range(FLOOD):
        task = {"tenant_id": tenant, "user_id": user, "request_id": str(number), "task_type": "route"}
        prompt = {"simulated_delay_ms": DELAY_MS}
        pipeline.xadd(INBOX, {"data": json.dumps({**task, "prompt": prompt, "max_cost_cents": 0.001})})
    pipeline.execute()


def in_flight(stack: Stack) -> int:
    """Decisions of partition 0 that were delivered and have not ended."""
    pending: Any = stack.redis().xpending("{skeldir:0}:decisions", "executor")
    return int(pending["pending"])


if __name__ == "__main__":
    for figure in measure():
        print(f"{figure.what}: {figure.value}")
