"""Calls over time: how they ended, what they cost, how long they took, for each step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from services.ledger.keys import Refused, View
from services.ledger.looking import NARROW, Rows, looking, narrowing
from services.ledger.sessions import Connection, Pool

Step = Literal["minute", "quarter", "hour", "day"]
SECONDS: Mapping[Step, int] = {"minute": 60, "quarter": 900, "hour": 3600, "day": 86_400}
MAX_POINTS = 800
# Of so many calls the latencies are read for a chart of quarters: more would take longer than a look may.
MAX_LATENCIES = 20_000
# What no sums are kept for is read from the calls themselves: of an hour however many there are, else of so many.
MAX_CALLS = 50_000
AN_HOUR = timedelta(hours=1)

_EMPTY: dict[str, Any] = dict.fromkeys(("success", "blocked", "failed", "pending", "cached", "cost_cents"), 0)
_EMPTY |= {"mean_ms": None, "p95_ms": None}
# Latencies are those of calls that were made and have ended.
_CALLED = "FILTER (WHERE provider_attempted AND status <> 'pending')"
OF_CALLS = f"""
SELECT date_bin(make_interval(secs => $3), created_at, 'epoch') AS time,
       count(*) FILTER (WHERE status = 'success') AS success, count(*) FILTER (WHERE status = 'blocked') AS blocked,
       count(*) FILTER (WHERE status = 'failed') AS failed, count(*) FILTER (WHERE status = 'pending') AS pending,
       count(*) FILTER (WHERE was_cached) AS cached, trim_scale(coalesce(sum(cost_cents), 0)) AS cost_cents,
       round(avg(latency_ms) {_CALLED}, 1)::float8 AS mean_ms,
       percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) {_CALLED} AS p95_ms
FROM llm_api_calls WHERE {NARROW} AND created_at >= $4 AND created_at < $5
GROUP BY 1 ORDER BY 1
"""
_LATENCIES = f"""
SELECT date_bin(make_interval(secs => $3), created_at, 'epoch') AS time,
       percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95_ms
FROM llm_api_calls
WHERE {NARROW} AND created_at >= $4 AND created_at < $5 AND provider_attempted AND status <> 'pending'
GROUP BY 1
"""
# Longer steps come from the rollups: of a user by hour, of a tenant or of all by quarter of an hour.
_SUMS = f"""
SELECT date_bin(make_interval(secs => $3), start, 'epoch') AS time,
       coalesce(sum(calls) FILTER (WHERE status = 'success'), 0)::bigint AS success,
       coalesce(sum(calls) FILTER (WHERE status = 'blocked'), 0)::bigint AS blocked,
       coalesce(sum(calls) FILTER (WHERE status = 'failed'), 0)::bigint AS failed,
       coalesce(sum(calls) FILTER (WHERE status = 'pending'), 0)::bigint AS pending,
       sum(cached)::bigint AS cached, trim_scale(sum(cost_cents)) AS cost_cents,
       round(sum(latency_ms)::numeric / nullif(sum(attempted), 0), 1)::float8 AS mean_ms, NULL::bigint AS p95_ms
FROM (
  SELECT {{start}} AS start, status, calls, cached, attempted, latency_ms, cost_cents
  FROM {{sums}} AND {{start}} >= $4 AND {{start}} < $5
  UNION ALL
  SELECT quarter, 'pending', calls, 0, 0, 0, cost_cents
  FROM calls_under_way WHERE {NARROW} AND quarter >= $4 AND quarter < $5
) AS seen
GROUP BY 1 ORDER BY 1
"""
_HOW_MANY = """
SELECT coalesce(sum(calls), 0)::bigint FROM {sums}
AND {start} >= date_trunc('hour', $3::timestamptz, 'UTC') AND {start} < $4
"""
# Single hours here and there, and the first one that is known of: each is looked up, and nothing between them.
_SINGLE = f"""
WITH known AS (
  SELECT least(
    (SELECT min({{start}}) FROM {{sums}} AND {{start}} >= $4),
    (SELECT min(quarter) FROM calls_under_way WHERE {NARROW} AND quarter >= $4)
  ) AS first
)
SELECT wanted.at AS time, coalesce(sum(calls) FILTER (WHERE status = 'failed'), 0)::bigint AS failed,
       sum(cost_cents) AS cost_cents
FROM (
  SELECT unnest($3::timestamptz[]) AS at UNION SELECT date_bin('1 hour', first, 'epoch') FROM known
) AS wanted CROSS JOIN LATERAL (
  SELECT status, calls, cost_cents
  FROM {{sums}} AND {{start}} >= wanted.at AND {{start}} < wanted.at + interval '1 hour'
  UNION ALL
  SELECT 'pending', calls, cost_cents
  FROM calls_under_way WHERE {NARROW} AND quarter >= wanted.at AND quarter < wanted.at + interval '1 hour'
) AS seen
GROUP BY 1
"""
_OF_USERS = {"start": "span_start", "sums": f"call_sums_of_users WHERE {NARROW} AND span = 'hour'"}
_OF_TENANTS = {"start": "quarter", "sums": "call_quarters_of_tenants WHERE tenant_id = $1 AND $2::uuid IS NULL"}
_OF_ALL = {"start": "quarter", "sums": "call_quarters_of_all WHERE ($1::uuid IS NULL OR $2::uuid IS NULL)"}
SUMS_OF_USERS, SUMS_OF_TENANTS, SUMS_OF_ALL = (_SUMS.format(**of) for of in (_OF_USERS, _OF_TENANTS, _OF_ALL))


def query_of(view: View, step: Step) -> str:
    """The query for such steps of a view."""
    if step == "minute" or (step == "quarter" and view.user_ids):
        return OF_CALLS
    return _SUMS.format(**_sums_of(view))


def _sums_of(view: View) -> Mapping[str, str]:
    if view.is_of_all:
        return _OF_ALL
    return _OF_USERS if view.user_ids else _OF_TENANTS


def fits(since: datetime, until: datetime, step: Step) -> bool:
    """Whether that many steps can be shown at once."""
    return 0 < (until - since).total_seconds() <= MAX_POINTS * SECONDS[step]


async def series(pool: Pool, view: View, since: datetime, until: datetime, step: Step) -> Rows:
    """A row for each step, also for those in which nothing happened. Steps longer than a minute are whole ones.

    Raises Refused where more calls would have to be read, one by one, than a look may take.
    """
    seconds, sql = SECONDS[step], query_of(view, step)
    first, last = int(since.timestamp()) // seconds, -(-int(until.timestamp()) // seconds)
    if step != "minute":
        since, until = _time(first * seconds), _time(last * seconds)
    async with looking(pool, view, None) as connection:
        if sql is OF_CALLS and until - since > AN_HOUR:
            await _refuse_many(connection, view, since, until)
        asked = (*narrowing(view), seconds, since, until)
        found = {row["time"]: dict(row) for row in await connection.fetch(sql, *asked)}
        ended = sum(row["success"] + row["failed"] for row in found.values())
        if step == "quarter" and sql is not OF_CALLS and ended <= MAX_LATENCIES:
            for row in await connection.fetch(_LATENCIES, *asked):
                if row["time"] in found:  # not of a call that has ended since
                    found[row["time"]]["p95_ms"] = row["p95_ms"]
    times = (_time(number * seconds) for number in range(first, last))
    return [found.get(moment, {"time": moment, **_EMPTY}) for moment in times]


async def single_hours(pool: Pool, view: View, hours: Collection[datetime], after: datetime) -> Rows:
    """`failed` and `cost_cents` of those of these hours in which there were calls, and of the first such hour from
    `after` on, which all of them are behind."""
    async with looking(pool, view, None) as connection:
        rows = await connection.fetch(_SINGLE.format(**_sums_of(view)), *narrowing(view), list(hours), after)
    return [dict(row) for row in rows]


async def _refuse_many(connection: Connection, view: View, since: datetime, until: datetime) -> None:
    calls = await connection.fetchval(_HOW_MANY.format(**_sums_of(view)), *narrowing(view), since, until)
    if calls > MAX_CALLS:
        problem = f"{calls:,} calls are too many to be read one by one, {MAX_CALLS:,} are not"
        raise Refused(422, "too_many_calls", f"{problem}: take longer steps, less time, or a tenant of all of them")


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
