"""How fast `skeldir replay` decides recorded traffic again: under the recorded limits, and under tighter ones.

`python -m tests.bench.replaying TASKS [--data DIR]` fills a database of its own (DIR keeps it for the next run), and
tells seconds and CPU, the database's apart; then where the CPU goes, stage by stage, page by page in one process: a
page's least says what a stage costs where nobody else is at the processor's caches.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from services.ledger import event_pages, migrate, sessions
from services.policy.state import PolicyConfig
from shared.events.envelope import at
from shared.garbage import collect_less
from shared.money import from_cents
from shared.partitions import Partition
from skeldir.embedded import EmbeddedPostgres
from skeldir.replay import reading
from skeldir.replay.reading import END_OF_TIME_MS, Question, replay
from skeldir.replay.recording import DECIDED
from skeldir.replay.replaying import Replay
from skeldir.replay.scenario import Scenario
from tests.bench.figures import Figure, quantile
from tests.bench.recorded import CONFIG, Traffic, fill

TURNS = 3
OWNERS = Traffic(0).tenants * Traffic(0).users


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process so far, with its children that have ended."""
    return float(sum(psutil.Process(pid).cpu_times()[:4]))


def measure(tasks: int, folder: Path, turns: int = TURNS) -> list[Figure]:
    """Each scenario, some times."""
    collect_less()  # as the command does
    filled = folder / "filled"
    server = EmbeddedPostgres(folder)
    server.start()
    try:
        migrate.upgrade(server.url("skeldir_owner"))
        if not filled.exists():
            asyncio.run(fill(server.url("postgres"), Traffic(tasks)))
            filled.touch()
        tasks = asyncio.run(_decided(server.url("postgres")))  # of a database that was kept, too
        tighter = replace(CONFIG, monthly_cap=from_cents(tasks // OWNERS))  # about half of what they spent
        scenarios = (("the recorded limits", CONFIG), ("a tighter monthly cap", tighter))
        found = [_figure(server, tasks, what, config, turns) for what, config in scenarios]
        return [*found, *asyncio.run(_stages(server.url("skeldir_owner")))]
    finally:
        server.stop()


async def _decided(url: str) -> int:
    connection: Any = await asyncpg.connect(url)
    try:
        query = "SELECT count(*) FROM events WHERE type IN ('task.allowed', 'task.blocked')"
        return int(await connection.fetchval(query, timeout=600))
    finally:
        await connection.close()


async def _stages(url: str) -> list[Figure]:
    """CPU of each page, by stage."""
    seen: dict[str, list[float]] = {"taken from the database": [], "read": [], "decided and counted": []}
    one = Replay([], Scenario(CONFIG), Scenario(CONFIG))
    async with sessions.snapshot(url, timeout_s=3600) as connection:
        clock = time.process_time
        began = clock()
        async for page in event_pages.with_causes(connection, {0: Partition(0).decisions}, at(END_OF_TIME_MS), DECIDED):
            taken, before = clock(), one.tally.decisions
            steps = [reading.step_of_row({}, row) for row in page]
            read = clock()
            for step in steps:
                one.take(step)
            done = clock()
            tasks = max(1, one.tally.decisions - before)
            for stage, spent in zip(seen, (taken - began, read - taken, done - read), strict=True):
                seen[stage].append(spent / tasks * 1e6)
            began = clock()
    return [
        Figure(f"CPU of a task, {stage}", f"{min(spent):.1f} µs at least, {quantile(spent, 0.5):.1f} (median of pages)")
        for stage, spent in seen.items()
    ]


def _figure(server: EmbeddedPostgres, tasks: int, what: str, config: PolicyConfig, turns: int) -> Figure:
    seconds, here, there = [], [], []
    blocked = 0
    for _ in range(turns):
        mine, servers, began = cpu_s(os.getpid()), cpu_s(server.pid), time.perf_counter()
        report = replay(server.url("skeldir_owner"), Question(Scenario(config), Scenario(CONFIG)))
        seconds.append(time.perf_counter() - began)
        here.append((cpu_s(os.getpid()) - mine) / tasks * 1e6)
        there.append((cpu_s(server.pid) - servers) / tasks * 1e6)
        assert report.tally.decisions == tasks and not report.tally.unjudged, report.tally
        assert (config == CONFIG) == (not report.tally.changed), "the same limits change nothing, others do"
        blocked = sum(sums.decisions for kind, sums in report.tally.changed.items())
    took = quantile(seconds, 0.5)
    return Figure(
        f"replay of {tasks:,} tasks under {what} ({blocked:,} decided otherwise)",
        f"{took:.1f} s, {tasks / took:,.0f} tasks a second, median of {turns} "
        f"({min(seconds):.1f} to {max(seconds):.1f}); CPU {quantile(here, 0.5):.0f} µs a task, "
        f"and the database's {quantile(there, 0.5):.0f}; load of the machine {os.getloadavg()[0]:.1f}",
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", type=int)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--turns", type=int, default=TURNS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        for figure in measure(asked.tasks, asked.data or Path(folder), asked.turns):
            print(f"{figure.what}: {figure.value}", flush=True)


if __name__ == "__main__":
    main()
