"""Dashboards over many calls, with the eyes of a user, of a tenant's auditor and of an operator.

`python -m tests.bench.ledger_scale --calls N` fills a database of its own with calls of a month (100 tenants of 20
users), asks each question some times, and fails where a plan scans all calls, or a median is above `LIMIT_MS`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services.ledger import migrate, overview, sessions
from services.ledger.dashboards import BY_NAME
from skeldir.embedded import EmbeddedPostgres
from tests.bench.figures import Figure, quantile

TENANTS, USERS, DAYS, CHUNK, TIMES = 100, 20, 30, 100_000, 15
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
# The dashboards as they were before there were rollups: the first two statements of the way back.
_BEFORE = (migrate.MIGRATIONS / "sql" / "0009" / "down.sql").read_text().split(";")[:2]
FROM_CALLS = {
    name: sql.partition(" AS\n")[2]
    for name, sql in zip(("cache_hit_rate", "provider_cost_latency"), _BEFORE, strict=True)
}


async def fill(connection: Any, calls: int) -> float:
    """Seconds that it took to write the calls, with their indexes and rollups."""
    began = time.perf_counter()
    start, gap = datetime.now(UTC) - timedelta(days=DAYS), timedelta(days=DAYS) / calls
    for first in range(0, calls, CHUNK):
        await connection.execute(_FILL, first, min(first + CHUNK, calls), TENANTS, USERS, start, gap, timeout=600)
        print(f"\r{first + CHUNK:,} calls, {time.perf_counter() - began:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    return time.perf_counter() - began


Question = tuple[str, str, tuple[Any, ...]]


def questions(role: str, tenant: UUID | None, user: UUID | None) -> Iterator[Question]:
    """What the console and the read API ask of calls for this view: a name, SQL and arguments."""
    for name in FROM_CALLS:
        yield f"dashboard {name}", BY_NAME[name].sql, ()
    now = datetime.now(UTC)
    hours = overview._HOURS_OF_USERS if role == sessions.USER else overview._HOURS_OF_TENANTS
    for what, seconds, days in (("a day by hour", 3600, 1), ("a month by day", 86_400, DAYS)):
        yield f"series, {what}", hours, (tenant, user, seconds, now - timedelta(days=days), now)
    yield "series, an hour by minute", overview._SERIES, (tenant, user, 60, now - timedelta(hours=1), now)
    for name in ("_REASONS", "_RECENT"):
        yield f"overview{name.lower().replace('_', ', ')}", getattr(overview, name), (tenant, user)


async def measure(calls: int) -> tuple[list[Figure], list[str]]:
    """The figures, and what is wrong with them."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            migrate.upgrade(server.url("skeldir_owner"))
            ledger: Any = await asyncpg.connect(server.url("skeldir_ledger"), server_settings={"timezone": "UTC"})
            seconds = await fill(ledger, calls)
            admin: Any = await asyncpg.connect(server.url("postgres"))
            await admin.execute("VACUUM ANALYZE", timeout=1200)
            rows = await admin.fetchval("SELECT count(*) FROM call_sums_of_users")
            size = await admin.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
            found = [
                Figure(f"{calls:,} calls written", f"{calls / seconds:,.0f} a second; {size}; {rows:,} sums of users")
            ]
            tenant, user = UUID(int=1 + 42), UUID(int=1000 + 42 * USERS)
            for role, *narrow in (
                (sessions.USER, tenant, user),
                (sessions.AUDITOR, tenant, None),
                (sessions.OPERATOR, None, None),
            ):
                async with sessions.reading(ledger, role, narrow[0], [user] if narrow[1] else ()):
                    for name, sql, arguments in questions(role, *narrow):
                        found.append(await _ask(ledger, f"{role}: {name}", sql, arguments, problems))
                    for name, sql in FROM_CALLS.items():
                        took = await _took(ledger, sql, ())
                        found.append(Figure(f"{role}: dashboard {name}, from all calls, once", f"{took:,.0f} ms"))
            await admin.close()
            await ledger.close()
        finally:
            server.stop()
    return found, problems


async def _ask(connection: Any, name: str, sql: str, arguments: tuple[Any, ...], problems: list[str]) -> Figure:
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments)
    if any(
        node["Node Type"] == "Seq Scan" and node["Relation Name"] == "llm_api_calls"
        for node in _nodes(orjson.loads(plan)[0]["Plan"])
    ):
        problems.append(f"{name}: its plan scans all calls")
    times = [await _took(connection, sql, arguments) for _ in range(TIMES)]
    if quantile(times, 0.5) > LIMIT_MS:
        problems.append(f"{name}: {quantile(times, 0.5):.0f} ms")
    return Figure(name, f"{quantile(times, 0.5):.1f} ms, at most {max(times):.1f}")


async def _took(connection: Any, sql: str, arguments: tuple[Any, ...]) -> float:
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
    figures, problems = asyncio.run(measure(parser.parse_args().calls))
    for figure in figures:
        print(f"{figure.what}: {figure.value}")
    for problem in problems:
        print(f"PROBLEM {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
