"""How fast `ledger verify` walks the chains: recorded traffic, chained as the ledger does it.

`python -m tests.bench.verifying TASKS` fills a database of its own: five events a task.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import psutil

from services.ledger import migrate
from services.ledger.audit.chains import verify_chains
from shared.garbage import collect_less
from skeldir.embedded import EmbeddedPostgres
from tests.bench.figures import Figure, quantile
from tests.bench.recorded import Traffic, fill

TURNS = 3


def cpu_s(server: EmbeddedPostgres) -> float:
    """Seconds of CPU so far: of this process and the server, with their children that have ended."""
    return sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in (os.getpid(), server.pid))


def measure(tasks: int) -> list[Figure]:
    """The walk, some times."""
    collect_less()  # as the command does
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            migrate.upgrade(server.url("skeldir_owner"))
            events = asyncio.run(fill(server.url("postgres"), Traffic(tasks)))
            rates, costs = [], []
            for _ in range(TURNS):
                before = cpu_s(server)
                report = asyncio.run(verify_chains(server.url("skeldir_owner"), {}))
                costs.append((cpu_s(server) - before) / events)
                assert report.sound and report.rows == events, report.findings
                rates.append(report.rows / report.seconds)
            spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
            cost = quantile(costs, 0.5)
            return [
                Figure(
                    f"verify the chains of {events:,} events",
                    f"{quantile(rates, 0.5):,.0f} events a second, median of {TURNS} ({spread}); "
                    f"CPU {cost * 1e6:.1f} µs an event with the server's: {1 / cost:,.0f} a second and core",
                )
            ]
        finally:
            server.stop()


if __name__ == "__main__":
    for figure in measure(int(sys.argv[1])):
        print(f"{figure.what}: {figure.value}")
