"""All that is done with books, on the same many events: load, rebuild, verify, each dashboard, replay.

`python -m tests.bench.books_scale --events N [--data DIR]` fills a database of its own with recorded traffic of two
months, about five events a task. DIR keeps it, and a later run with `--stages replay` asks one question anew. Figures
are printed as they come, each stage with the machine's load, and kept in `DIR/figures.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger import migrate, sessions
from services.ledger.audit.chains import verify_chains
from services.ledger.keys import View
from services.ledger.looking import looking
from services.ledger.rebuild import rebuild
from services.ledger.verify import verify
from shared.garbage import collect_less
from skeldir.embedded import EmbeddedPostgres
from skeldir.replay.reading import Question, replay
from skeldir.replay.scenario import Scenario
from tests.bench.figures import Figure, quantile
from tests.bench.ledger_scale import KEY, minutes_read, questions
from tests.bench.rebuilding import longest_wait
from tests.bench.recorded import CONFIG, Traffic, fill

EVENTS_A_TASK, TIMES = 4.9, 15
TENANTS, USERS, DAYS = 100, 20, 60


class Books:
    """The database, and what is asked of it."""

    def __init__(self, server: EmbeddedPostgres, traffic: Traffic) -> None:
        self._server, self._traffic = server, traffic
        self._owner = server.url("skeldir_owner")

    async def load(self) -> list[Figure]:
        """Tasks decided by policy's own deciders, chained as the ledger does it, COPY."""
        began = time.perf_counter()
        events = await fill(
            self._server.url("postgres"), self._traffic, lambda done: print(f"{done:,} events", flush=True)
        )
        return [_rate("made and loaded", events, "events", time.perf_counter() - began), await self._size()]

    async def rebuild(self) -> list[Figure]:
        """From no row; then where all is right. A probe takes a writer's first lock meanwhile."""
        found: list[Figure] = []
        events = await self._count("events")
        for what in ("no row was there", "every row was right"):
            waits: list[float] = []
            probe = asyncio.create_task(longest_wait(self._server.url("skeldir_ledger"), waits))
            began = time.perf_counter()
            await rebuild(self._owner)
            took = time.perf_counter() - began
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)
            found.append(_rate(f"rebuild, {what}", events, "events", took))
            found.append(Figure(f"rebuild, {what}: a writer waited at most", f"{max(waits):.2f} s"))
        admin: Any = await asyncpg.connect(self._server.url("postgres"))
        await admin.execute("VACUUM (ANALYZE)", timeout=3600)
        await admin.close()
        return [*found, await self._size()]

    async def verify(self) -> list[Figure]:
        """The chains, then the balances."""
        events = await self._count("events")
        chains = await verify_chains(self._owner, {})
        assert chains.sound and chains.rows == events, chains.findings
        began = time.perf_counter()
        balances = await verify(self._owner)
        took = time.perf_counter() - began
        assert balances.sound, balances.findings
        return [
            _rate("verify, the chains", events, "events", chains.seconds),
            _rate("verify, every balance", events, "events", took),
        ]

    async def dashboards(self) -> list[Figure]:
        """Each question of the console and the read API, as its own role asks it."""
        pool = await sessions.pool(self._server.url("skeldir_ledger"), name="bench", size=1)
        found: list[Figure] = []
        tenant, user = await self._somebody()
        calls = await self._count("llm_api_calls")
        minutes = minutes_read(calls, DAYS)
        for role, *narrow in (
            (sessions.USER, tenant, user),
            (sessions.AUDITOR, tenant, None),
            (sessions.OPERATOR, None, None),
        ):
            view = View(KEY, role, narrow[0], [user] if narrow[1] else ())
            async with looking(pool, view, None) as connection:
                for name, sql, parameters in questions(view, minutes):
                    times = []
                    for _ in range(TIMES):
                        began = time.perf_counter()
                        await connection.fetch(sql, *parameters, timeout=600)
                        times.append((time.perf_counter() - began) * 1000)
                    found.append(Figure(f"{role}: {name}", f"{quantile(times, 0.5):.1f} ms, at most {max(times):.1f}"))
        await pool.close()
        return [Figure("calls in the books", f"{calls:,}"), *found]

    async def replay(self) -> list[Figure]:
        """Under the recorded limits, where nothing may change; then under a cap that blocks many."""
        found = []
        for what, cap in (
            ("the recorded limits", CONFIG.monthly_cap),
            ("a hundredth of the cap", CONFIG.monthly_cap // 100),
        ):
            question = Question(Scenario(replace(CONFIG, monthly_cap=cap)), Scenario(CONFIG))
            began = time.perf_counter()
            report = await asyncio.to_thread(replay, self._owner, question, lambda done, total: None)
            took = time.perf_counter() - began
            assert cap != CONFIG.monthly_cap or not report.tally.changed, "the same limits change nothing"
            found.append(_rate(f"replay, {what}", self._traffic.tasks, "tasks", took))
        return found

    async def _somebody(self) -> tuple[UUID, UUID]:
        connection: Any = await asyncpg.connect(self._server.url("postgres"))
        try:
            row = await connection.fetchrow("SELECT tenant_id, user_id FROM llm_monthly_costs ORDER BY 1, 2 LIMIT 1")
            return row["tenant_id"], row["user_id"]
        finally:
            await connection.close()

    async def _count(self, table: str) -> int:
        connection: Any = await asyncpg.connect(self._server.url("postgres"))
        try:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}", timeout=3600))
        finally:
            await connection.close()

    async def _size(self) -> Figure:
        connection: Any = await asyncpg.connect(self._server.url("postgres"))
        try:
            return Figure(
                "the database", await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
            )
        finally:
            await connection.close()


STAGES: dict[str, Callable[[Books], Coroutine[Any, Any, list[Figure]]]] = {
    "load": Books.load,
    "rebuild": Books.rebuild,
    "verify": Books.verify,
    "dashboards": Books.dashboards,
    "replay": Books.replay,
}


def _rate(what: str, count: int, of: str, seconds: float) -> Figure:
    return Figure(what, f"{seconds:,.1f} s, {count / seconds:,.0f} {of} a second ({count:,})")


def measure(events: int, data: Path, stages: list[str]) -> list[Figure]:
    """The stages, one after another; what each said is kept."""
    collect_less()  # as the commands do
    tasks, kept = round(events / EVENTS_A_TASK), data / "figures.json"
    span_ms = DAYS * 86_400_000
    traffic = Traffic(tasks, TENANTS, USERS, span_ms // tasks, start_ms=round(time.time() * 1000) - span_ms)
    known: dict[str, list[list[str]]] = json.loads(kept.read_text()) if kept.exists() else {}
    server = EmbeddedPostgres(data)
    server.start()
    try:
        migrate.upgrade(server.url("skeldir_owner"))
        books = Books(server, traffic)
        for stage in stages:
            if stage == "load" and stage in known:
                continue
            found = asyncio.run(STAGES[stage](books))
            found.append(Figure(f"{stage}: load of the machine at its end", f"{os.getloadavg()[1]:.1f} (5 minutes)"))
            for figure in found:
                print(f"{figure.what}: {figure.value}", flush=True)
            known[stage] = [[figure.what, figure.value] for figure in found]
            kept.write_text(json.dumps(known, indent=1))
    finally:
        server.stop()
    return [Figure(what, value) for stage in known.values() for what, value in stage]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        measure(asked.events, asked.data or Path(folder), asked.stages)


if __name__ == "__main__":
    main()
