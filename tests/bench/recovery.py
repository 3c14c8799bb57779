"""How soon the tasks of a service that was killed (kill -9) go on: the longest that one of them took, under load."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from pathlib import Path

from tests.bench.alone import ROOMY
from tests.bench.chain import Chain
from tests.bench.figures import Figure, quantile, spread
from tests.bench.http_load import Load, load
from tests.stack import Stack

AT_ONCE, TASKS = 16, 1200
KILL_AFTER_S = 1.0
KILLED = ("policy", "executor")


def measure(turns: int = 3) -> list[Figure]:
    """Each of them killed some times. `skeldir up` starts it again; no other process stands by.
    What an executor was calling ends as uncertain: it is not called twice."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder), ROOMY) as stack:
        chain = Chain(stack)
        chain.warm()
        return [_killed(stack, chain, name, turns) for name in KILLED]


def _killed(stack: Stack, chain: Chain, name: str, turns: int) -> Figure:
    longest = []
    for _ in range(turns):
        timer = threading.Timer(KILL_AFTER_S, lambda: os.kill(stack.ready["pids"][name], signal.SIGKILL))
        timer.start()
        came: Load = asyncio.run(load(stack.ready["gateway_url"], AT_ONCE, TASKS, chain.new_task, b'"status":"'))
        timer.join()
        longest.append(quantile(came.took_ms, 1.0) / 1000)
    found = spread(longest)
    return Figure(
        f"{name} killed, started again by `up`: the longest task of {TASKS}",
        f"{found.of('.2f')} s",
        numbers={"seconds": found.median},
    )


if __name__ == "__main__":
    for figure in measure():
        print(figure)
