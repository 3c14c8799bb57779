"""Dashboards over many calls, with the eyes of a user, of a tenant's auditor and of an operator.

`python -m tests.bench.ledger_scale --calls N --tenants N` fills a database of its own with calls of a month (tenants of
20 users each), asks each question some times, and fails where a plan scans all calls, or a median is above `LIMIT_MS`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services.ledger import lists, migrate, overview, series, sessions
from services.ledger.costs import By, costs
from services.ledger.dashboards import BY_NAME
from services.ledger.keys import View
from services.ledger.looking import looking, narrowing
from services.ledger.main import READERS
from services.ledger.queries import list_of
from services.ledger.spending import SPEND_NOW, SPEND_OF_ALL
from shared.clock import ServerClock
from shared.control_state import Key
from shared.streams.connection import connect
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.bench.figures import Figure, quantile

USERS, DAYS, CHUNK, TIMES = 20, 30, 100_000, 15
LIMIT_MS = 50.0
_FILL = """
INSERT INTO llm_api_calls (
  id, tenant_id, user_id, endpoint, request_id, task_type, provider, model, created_at, updated_at, submitted_stamp,
  decision_stamp, attempt_stamp, attempt_id, attempts, end_stamp, ended_at, status, block_reason, failure_reason,
  was_cached, end_attempted, end_cost_cents, output_text, usage_stamp, input_tokens, output_tokens, latency_ms)
SELECT id, lpad(to_hex(1 + who / $4::int), 32, '0')::uuid, lpad(to_hex(1000 + who), 32, '0')::uuid,
  'app.tasks.llm.' || task_type, 'request-' || n, task_type, split_part(model, ':', 1), split_part(model, ':', 2),
  at, at + interval '2 s', id, id, id, id, 1, id, at + interval '2 s', status,
  CASE WHEN status = 'blocked' THEN (ARRAY['monthly_cap_exceeded', 'breaker_open', 'kill_switch'])[1 + n % 3] END,
  CASE WHEN status = 'failed' THEN 'provider_timeout' END, status = 'success' AND dice < 0.1,
  status = 'failed' OR status = 'success' AND dice >= 0.1,
  CASE WHEN status = 'success' THEN round(dice::numeric, 4) ELSE 0 END,
  'An answer of some words, as they come.', id, 300, 200, exp(6.5 + 0.8 * random_normal())::bigint
FROM (
  SELECT n, gen_random_uuid() AS id, (random() * ($3::int * $4::int - 1))::int AS who, random() AS dice,
    $5::timestamptz + n * $6::interval AS at,
    (ARRAY['openai:gpt-4o-mini', 'openai:gpt-4o', 'anthropic:claude-sonnet', 'stub:model'])[1 + n % 4] AS model,
    (ARRAY['route', 'explanation', 'investigation', 'budget_optimization'])[1 + (n / 4) % 4] AS task_type,
    CASE WHEN n % 101 < 90 THEN 'success' WHEN n % 101 < 96 THEN 'blocked' ELSE 'failed' END AS status
  FROM generate_series($1::bigint, $2::bigint - 1) AS n
) AS made
"""
# What the balances would have left: a month and an hour of each user and tenant, at any part of their caps.
_BALANCES = """
INSERT INTO llm_monthly_costs
SELECT tenant_id, user_id, span_start::date, sum(cost_cents), sum(calls), '{}', now() FROM call_sums_of_users
WHERE span = 'month' GROUP BY 1, 2, 3;
INSERT INTO llm_monthly_budget_state
SELECT tenant_id, user_id, month, 1, total_cost_cents * (1 + random()), total_cost_cents, 0, total_calls, now()
FROM llm_monthly_costs;
INSERT INTO llm_hourly_shutoff_state (
  tenant_id, user_id, hour_start, balance_version, threshold_cents, total_cost_cents, total_calls, updated_at)
SELECT tenant_id, user_id, span_start, 1, sum(cost_cents) * (1 + random()), sum(cost_cents), sum(calls), now()
FROM call_sums_of_users WHERE span = 'hour' GROUP BY 1, 2, 3;
INSERT INTO tenant_budget_state
SELECT tenant_id, span, span_start, 1, sum(cost_cents) * (1 + random()), sum(cost_cents), 0, sum(calls), now()
FROM call_sums_of_users GROUP BY 1, 2, 3
"""
# The dashboards as they were before there were rollups: the first two statements of the way back.
_BEFORE = (migrate.MIGRATIONS / "sql" / "0009" / "down.sql").read_text().split(";")[:2]
FROM_CALLS = {
    name: sql.partition(" AS\n")[2]
    for name, sql in zip(("cache_hit_rate", "provider_cost_latency"), _BEFORE, strict=True)
}


async def fill(connection: Any, calls: int, tenants: int) -> float:
    """Seconds that it took to write the calls, with their indexes and rollups."""
    began = time.perf_counter()
    start, gap = datetime.now(UTC) - timedelta(days=DAYS), timedelta(days=DAYS) / calls
    for first in range(0, calls, CHUNK):
        await connection.execute(_FILL, first, min(first + CHUNK, calls), tenants, USERS, start, gap, timeout=600)
        print(f"\r{first + CHUNK:,} calls, {time.perf_counter() - began:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    await connection.execute(_BALANCES, timeout=1200)
    return time.perf_counter() - began


KEY = Key("bench", UUID(int=0), None, "operator", None, "bench", 0)
Question = tuple[str, str, Sequence[Any]]


def minutes_read(calls: int, days: float) -> timedelta:
    """The longest chart by minute that is made of so many calls in so many days: it reads them one by one."""
    return min(timedelta(hours=12), timedelta(days=days) * (series.MAX_CALLS / calls))


def questions(view: View, minutes: timedelta) -> Iterator[Question]:
    """What the console and the read API ask for this view, charts by minute of at most `minutes`: a name, SQL and
    parameters."""
    for dashboard in BY_NAME.values():
        yield f"dashboard {dashboard.name}", *lists.question(view, list_of(dashboard), 500, None, {})
    now = datetime.now(UTC)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    by: By = "tenant" if view.is_of_all else "user"
    yield f"costs by {by}", *lists.question(view, costs(view, by), 50, None, {"month": month})
    for listing in (lists.CALLS, lists.SHUTOFFS, SPEND_NOW):
        yield f"list of {listing.name}", *lists.question(view, listing, 50, None, {})
    if view.is_of_all:
        since = {"since": now - timedelta(days=DAYS + 1)}
        yield "list of spend, a month", *lists.question(view, SPEND_OF_ALL, 50, None, since)
    steps: tuple[tuple[str, series.Step, timedelta], ...] = (
        ("day", "hour", timedelta(days=1)),
        ("month", "hour", timedelta(days=DAYS)),
        ("month", "day", timedelta(days=DAYS)),
        ("day", "quarter", timedelta(days=1)),
        ("week", "quarter", timedelta(days=7)),
        ("hour", "minute", timedelta(hours=1)),
        (f"span of {minutes.total_seconds() / 3600:.1f} h", "minute", minutes),
    )
    for what, step, back in steps:
        asked = (*narrowing(view), series.SECONDS[step], now - back, now)
        yield f"series, a {what} by {step}", series.query_of(view, step), asked
    for name in ("_REASONS", "_RECENT"):
        yield f"overview{name.lower().replace('_', ', ')}", getattr(overview, name), narrowing(view)


async def measure(calls: int, tenants: int) -> tuple[list[Figure], list[str]]:
    """The figures, and what is wrong with them."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            migrate.upgrade(server.url("skeldir_owner"))
            ledger: Any = await asyncpg.connect(server.url("skeldir_ledger"), server_settings={"timezone": "UTC"})
            pool = await sessions.pool(server.url("skeldir_ledger"), name="bench", size=1)
            seconds = await fill(ledger, calls, tenants)
            admin: Any = await asyncpg.connect(server.url("postgres"))
            await admin.execute("VACUUM ANALYZE", timeout=1200)
            rows = await admin.fetchval("SELECT count(*) FROM call_sums_of_users")
            size = await admin.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
            found = [
                Figure(
                    f"{calls:,} calls of {tenants:,} tenants written",
                    f"{calls / seconds:,.0f} a second; {size}; {rows:,} sums of users",
                )
            ]
            for view in views():
                role = view.role
                async with looking(pool, view, None) as connection:
                    await connection.execute("SET LOCAL statement_timeout = 0")
                    for name, sql, parameters in questions(view, minutes_read(calls, DAYS)):
                        found.append(await _ask(connection, f"{role}: {name}", sql, parameters, problems))
                    for name, sql in FROM_CALLS.items():
                        took = await _took(connection, sql, ())
                        found.append(Figure(f"{role}: dashboard {name}, from all calls, once", f"{took:,.0f} ms"))
            found += await _overviews(Path(folder), server.url("skeldir_ledger"), problems)
            await admin.close()
            await ledger.close()
            await pool.close()
        finally:
            server.stop()
    return found, problems


def views() -> Iterator[View]:
    """Of a user, of a tenant's auditor and of an operator."""
    tenant, user = UUID(int=1 + 42), UUID(int=1000 + 42 * USERS)
    yield View(KEY, sessions.USER, tenant, [user])
    yield View(KEY, sessions.AUDITOR, tenant, ())
    yield View(KEY, sessions.OPERATOR, None, ())


async def _overviews(folder: Path, database_url: str, problems: list[str]) -> list[Figure]:
    """The overview as a whole, of which nothing is remembered; the log is there, and empty."""
    found = []
    log = EmbeddedValkey(folder)
    await asyncio.to_thread(log.start)
    redis = connect(log.url("ledger"), client_name="bench")
    control, clock = ControlReader(redis, 60_000), ServerClock()
    await control.catch_up()
    async with sessions.pool(database_url, name="bench-overview", size=READERS) as pool:
        for view in views():
            times = []
            for _ in range(TIMES):
                began = time.perf_counter()
                await overview.Overview(pool, redis, control, clock, Partitions(4)).look(view)
                times.append((time.perf_counter() - began) * 1000)
            found.append(_figure(f"{view.role}: overview, whole", times, problems))
    await redis.aclose()
    await asyncio.to_thread(log.stop)
    return found


async def _ask(connection: Any, name: str, sql: str, arguments: Sequence[Any], problems: list[str]) -> Figure:
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments)
    if any(
        node["Node Type"] == "Seq Scan" and node["Relation Name"] == "llm_api_calls"
        for node in _nodes(orjson.loads(plan)[0]["Plan"])
    ):
        problems.append(f"{name}: its plan scans all calls")
    return _figure(name, [await _took(connection, sql, arguments) for _ in range(TIMES)], problems)


def _figure(name: str, times: Sequence[float], problems: list[str]) -> Figure:
    if quantile(times, 0.5) > LIMIT_MS:
        problems.append(f"{name}: {quantile(times, 0.5):.0f} ms")
    return Figure(name, f"{quantile(times, 0.5):.1f} ms, at most {max(times):.1f}")


async def _took(connection: Any, sql: str, arguments: Sequence[Any]) -> float:
    began = time.perf_counter()
    await connection.fetch(sql, *arguments, timeout=600)
    return (time.perf_counter() - began) * 1000


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def main() -> None:
    """Measure, print, and fail where a question is too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=100)
    asked = parser.parse_args()
    figures, problems = asyncio.run(measure(asked.calls, asked.tenants))
    for figure in figures:
        print(f"{figure.what}: {figure.value}")
    for problem in problems:
        print(f"PROBLEM {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
