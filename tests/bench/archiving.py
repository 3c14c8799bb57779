"""Months into an archive, and the same questions before and after: `python -m tests.bench.archiving [--events N]`.

Recorded traffic of half a year, all but the last two months of it archived; in a database of its own. The load of the
machine is said with each figure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from services.ledger import migrate
from services.ledger.archive.archiving import archive, latest_before
from services.ledger.audit.chains import verify_chains
from services.ledger.history.reading import Bounds, verify_history
from services.ledger.rebuild import rebuild
from services.ledger.verify import verify
from shared.garbage import collect_less
from skeldir.embedded import EmbeddedPostgres
from skeldir.replay.reading import Question, replay
from skeldir.replay.scenario import Scenario
from tests.bench.recorded import CONFIG, Traffic, fill

EVENTS_A_TASK = 4.9
DAYS = 180
PENDING_MS = 10**12
SIZE = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('events')"


async def measure(server: EmbeddedPostgres, events: int, folder: Path) -> None:
    """Print what each step took."""
    owner, superuser = server.url("skeldir_owner"), server.url("postgres")
    migrate.upgrade(owner)
    tasks = round(events / EVENTS_A_TASK)
    start_ms = round(time.time() * 1000) - DAYS * 86_400_000
    made = await fill(superuser, Traffic(tasks, 100, 20, DAYS * 86_400_000 // tasks, start_ms=start_ms), lambda _: None)
    await timed("rebuild, no row was there", made, lambda: rebuild(owner))
    await questions(owner, made, None)
    before = await asked(superuser, SIZE)
    reports = await timed("archive", made, lambda: archive(owner, folder, latest_before(datetime.now(UTC))))
    files = [one for report in reports for one in report.files]
    gone, size = sum(one.rows for one in files), sum(one.size for one in files)
    print(f"{gone:,} events in {len(files)} files of {size / 2**20:,.0f} MiB; tables and indexes of events took "
          f"{before / 2**20:,.0f} MiB and take {await asked(superuser, SIZE) / 2**20:,.0f}")  # fmt: skip
    await questions(owner, made, folder)


async def questions(owner: str, events: int, folder: Path | None) -> None:
    """All that reads all events."""
    where = "in tables" if folder is None else "in the archive"
    chains = await timed(f"verify, chains, {where}", events, lambda: verify_chains(owner, {}, archive=folder))
    books = await timed(f"verify, balances, {where}", events, lambda: verify(owner, archive=folder))
    bounds = Bounds(pending_ms=PENDING_MS)
    history = await timed(f"verify, history, {where}", events, lambda: verify_history(owner, bounds, archive=folder))
    assert chains.sound and books.sound and history.sound
    rebuilt = await timed(f"rebuild, every row right, {where}", events, lambda: rebuild(owner, archive=folder))
    assert not any(rebuilt.changed.values())
    scenario = Scenario(CONFIG)
    question = Question(replace(scenario, config=CONFIG), scenario, archive=folder)
    replayed = await timed(f"replay, {where}", events, lambda: asyncio.to_thread(replay, owner, question))
    assert not replayed.tally.changed


async def timed(what: str, events: int, work: Callable[[], Awaitable[Any]]) -> Any:
    """Do it, and say how quick it was."""
    began = time.perf_counter()
    found = await work()
    took = time.perf_counter() - began
    load = os.getloadavg()[0]
    print(f"{what}: {took:,.1f} s, {events / took:,.0f} events a second (load {load:.1f})", flush=True)
    return found


async def asked(url: str, question: str) -> int:
    connection: Any = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(question))
    finally:
        await connection.close()


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    arguments = parser.parse_args()
    collect_less()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "books")
        server.start()
        try:
            asyncio.run(measure(server, arguments.events, Path(folder) / "archive"))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
