"""Calls over time: how they ended, what they cost, how long they took, for each step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from services.ledger.keys import View
from services.ledger.looking import NARROW, Rows, looking, narrowing
from services.ledger.sessions import Pool

Step = Literal["minute", "quarter", "hour", "day"]
SECONDS: Mapping[Step, int] = {"minute": 60, "quarter": 900, "hour": 3600, "day": 86_400}
MAX_POINTS = 800

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
# Steps of whole hours come from the rollups: of a user, of a tenant, or of all.
_HOURS = f"""
SELECT date_bin(make_interval(secs => $3), hour, 'epoch') AS time,
       coalesce(sum(calls) FILTER (WHERE status = 'success'), 0)::bigint AS success,
       coalesce(sum(calls) FILTER (WHERE status = 'blocked'), 0)::bigint AS blocked,
       coalesce(sum(calls) FILTER (WHERE status = 'failed'), 0)::bigint AS failed,
       coalesce(sum(calls) FILTER (WHERE status = 'pending'), 0)::bigint AS pending,
       sum(cached)::bigint AS cached, trim_scale(sum(cost_cents)) AS cost_cents,
       round(sum(latency_ms)::numeric / nullif(sum(attempted), 0), 1)::float8 AS mean_ms, NULL::bigint AS p95_ms
FROM (
  SELECT hour, status, calls, cached, attempted, latency_ms, cost_cents
  FROM {{sums}} AS sums WHERE hour >= $4 AND hour < $5
  UNION ALL
  SELECT hour, 'pending', calls, 0, 0, 0, cost_cents FROM calls_under_way WHERE {NARROW} AND hour >= $4 AND hour < $5
) AS seen
GROUP BY 1 ORDER BY 1
"""
_OF_USERS = f"(SELECT *, span_start AS hour FROM call_sums_of_users WHERE {NARROW} AND span = 'hour')"
_OF_TENANTS = "(SELECT * FROM call_hours_of_tenants WHERE tenant_id = $1 AND $2::uuid IS NULL)"
HOURS_OF_USERS = _HOURS.format(sums=_OF_USERS)
HOURS_OF_TENANTS = _HOURS.format(sums=_OF_TENANTS)
HOURS_OF_ALL = _HOURS.format(sums="call_hours_of_all")


def hours_of(view: View) -> str:
    """The query for steps of whole hours of a view."""
    if view.is_of_all:
        return HOURS_OF_ALL
    return HOURS_OF_USERS if view.user_ids else HOURS_OF_TENANTS


def fits(since: datetime, until: datetime, step: Step) -> bool:
    """Whether that many steps can be shown at once."""
    return 0 < (until - since).total_seconds() <= MAX_POINTS * SECONDS[step]


async def series(pool: Pool, view: View, since: datetime, until: datetime, step: Step) -> Rows:
    """A row for each step, also for those in which nothing happened. Hours and days are whole ones."""
    seconds, sql = SECONDS[step], OF_CALLS
    if step in ("hour", "day"):
        since = datetime.fromtimestamp(since.timestamp() // seconds * seconds, UTC)
        sql = hours_of(view)
    async with looking(pool, view, None) as connection:
        rows = await connection.fetch(sql, *narrowing(view), seconds, since, until)
    found = {row["time"]: dict(row) for row in rows}
    first, last = int(since.timestamp()) // seconds, -(-int(until.timestamp()) // seconds)
    times = (datetime.fromtimestamp(number * seconds, UTC) for number in range(first, last))
    return [found.get(moment, {"time": moment, **_EMPTY}) for moment in times]
