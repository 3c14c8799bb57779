"""The numbers that a person sees first: what flows, what it costs, what is stopped, what waits for somebody.

Many may look at once, and each look refreshes every few seconds: what was read a moment ago is shown again, and a
question that took the database long is asked as much less often.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from services.ledger.keys import View
from services.ledger.lag import lags
from services.ledger.letters import waiting_letters
from services.ledger.lists import BREAKERS, SHUTOFFS, SPEND, SWITCHES, Listing
from services.ledger.looking import NARROW, looking, narrowing
from services.ledger.sessions import Connection, Pool
from shared.clock import Clock
from shared.events.decisions import BreakerState
from shared.events.envelope import at
from shared.provider_breakers import Model, ProviderBreaker
from shared.streams.control_reader import ControlReader

FRESH_S = 1.0
# Reading takes at most this part of one connection's time.
SHARE = 0.1
MAX_REMEMBERED = 64
MOST = 20
MAX_POINTS = 800

_SECONDS = {"minute": 60, "quarter": 900, "hour": 3600, "day": 86_400}

_SERIES = f"""
SELECT date_bin(make_interval(secs => $3), created_at, 'epoch') AS time,
       count(*) FILTER (WHERE status = 'success') AS success, count(*) FILTER (WHERE status = 'blocked') AS blocked,
       count(*) FILTER (WHERE status = 'failed') AS failed, count(*) FILTER (WHERE status = 'pending') AS pending,
       count(*) FILTER (WHERE was_cached) AS cached, trim_scale(coalesce(sum(cost_cents), 0)) AS cost_cents
FROM llm_api_calls WHERE {NARROW} AND created_at >= $4 AND created_at < $5
GROUP BY 1 ORDER BY 1
"""
# Steps of whole hours come from the rollups: of users where the view is one, else of tenants.
_OF_USERS = f"call_sums_of_users WHERE {NARROW}"
_OF_TENANTS = "call_sums_of_tenants WHERE ($1::uuid IS NULL OR tenant_id = $1) AND $2::uuid IS NULL"
_HOURS = """
SELECT date_bin(make_interval(secs => $3), hour, 'epoch') AS time,
       coalesce(sum(calls) FILTER (WHERE status = 'success'), 0)::bigint AS success,
       coalesce(sum(calls) FILTER (WHERE status = 'blocked'), 0)::bigint AS blocked,
       coalesce(sum(calls) FILTER (WHERE status = 'failed'), 0)::bigint AS failed,
       coalesce(sum(calls) FILTER (WHERE status = 'pending'), 0)::bigint AS pending,
       sum(cached)::bigint AS cached, trim_scale(sum(cost_cents)) AS cost_cents
FROM (
  SELECT span_start AS hour, status, calls, cached, cost_cents FROM {sums}
    AND span = 'hour' AND span_start >= $4 AND span_start < $5
  UNION ALL
  SELECT hour, 'pending', calls, 0, cost_cents FROM calls_under_way WHERE {narrow} AND hour >= $4 AND hour < $5
) AS seen
GROUP BY 1 ORDER BY 1
"""
_HOURS_OF_USERS = _HOURS.format(sums=_OF_USERS, narrow=NARROW)
_HOURS_OF_TENANTS = _HOURS.format(sums=_OF_TENANTS, narrow=NARROW)
_REASONS = f"""
SELECT status, coalesce(block_reason, failure_reason) AS reason, count(*) AS calls
FROM llm_api_calls
WHERE {NARROW} AND created_at >= now() - interval '1 hour' AND status IN ('blocked', 'failed')
GROUP BY 1, 2 ORDER BY calls DESC, reason LIMIT {MOST}
"""
_RECENT = f"""
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE status = 'success' AND NOT was_cached)
         AS p50_ms,
       percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE status = 'success' AND NOT was_cached)
         AS p95_ms,
       count(*) FILTER (WHERE status = 'pending') AS under_way
FROM llm_api_calls WHERE {NARROW} AND created_at >= now() - interval '15 minutes'
"""
_MONTH = f"""
SELECT trim_scale(coalesce(sum(total_cost_cents), 0)) AS cost_cents, coalesce(sum(total_calls), 0) AS calls
FROM llm_monthly_costs WHERE {NARROW} AND month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
"""
_UNCERTAIN = f"""
SELECT count(*) AS attempts, trim_scale(coalesce(sum(reserved_cents), 0)) AS held_cents
FROM llm_budget_reservations WHERE {NARROW} AND state = 'held'
"""
_NOW = "budget_window = 'hour' AND window_start = date_trunc('hour', now()) OR budget_window = 'month' "
_NOW += "AND window_start = date_trunc('month', now())"


class Overview:
    """Answers many looks with few questions."""

    def __init__(self, pool: Pool, redis: Redis, control: ControlReader, clock: Clock, partitions: int) -> None:
        self._pool = pool
        self._redis = redis
        self._control = control
        self._clock = clock
        self._partitions = partitions
        self._remembered: OrderedDict[tuple[Any, ...], _Remembered] = OrderedDict()

    async def look(self, view: View) -> dict[str, Any]:
        """Everything at once, as fresh as it is cheap."""
        states, flow = await asyncio.gather(
            self._once(view, "states", lambda: self._states(view)), self._once(view, "flow", lambda: self._flow(view))
        )
        found = {"at": at(self._clock.now_ms()), **states, **flow}
        if view.is_operator:
            found |= await self._once(view, "log", self._log)
        return found

    async def series(self, view: View, since: datetime, until: datetime, step: str) -> list[dict[str, Any]]:
        """Calls by end, and their cost, for each step of time; steps in which nothing happened are there too."""
        rows = await self._once(view, f"series {since} {until} {step}", lambda: self._series(view, since, until, step))
        return list(rows["rows"])

    async def _states(self, view: View) -> dict[str, Any]:
        async with looking(self._pool, view, None) as connection:
            return {
                "caps": await _listed(
                    connection, view, SPEND, f"cap > 0 AND ({_NOW})", "(spent + reserved) / cap DESC"
                ),
                "breakers": await _listed(connection, view, BREAKERS, "state <> 'closed'", "updated_at DESC"),
                "switches": await _listed(
                    connection, view, SWITCHES, "engaged AND (until IS NULL OR until > now())", "changed_at DESC"
                ),
                "shutoffs": await _listed(connection, view, SHUTOFFS, SHUTOFFS.always, "updated_at DESC"),
                "uncertain": dict(await connection.fetchrow(_UNCERTAIN, *narrowing(view))),
                "month": dict(await connection.fetchrow(_MONTH, *narrowing(view))),
            }

    async def _flow(self, view: View) -> dict[str, Any]:
        until = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        minutes = (await self._series(view, until - timedelta(hours=1), until, "minute"))["rows"]
        async with looking(self._pool, view, None) as connection:
            recent = dict(await connection.fetchrow(_RECENT, *narrowing(view)))
            reasons = [dict(row) for row in await connection.fetch(_REASONS, *narrowing(view))]
        return {"minutes": minutes, "reasons": reasons, **recent}

    async def _series(self, view: View, since: datetime, until: datetime, step: str) -> dict[str, Any]:
        seconds = _SECONDS[step]
        sql = _SERIES
        if seconds % 3600 == 0:
            since = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            sql = _HOURS_OF_USERS if view.user_ids else _HOURS_OF_TENANTS
        async with looking(self._pool, view, None) as connection:
            rows = await connection.fetch(sql, *narrowing(view), seconds, since, until)
        found = {row["time"]: dict(row) for row in rows}
        empty = dict.fromkeys(("success", "blocked", "failed", "pending", "cached", "cost_cents"), 0)
        first, last = int(since.timestamp()) // seconds, -(-int(until.timestamp()) // seconds)
        times = (datetime.fromtimestamp(number * seconds, UTC) for number in range(first, last))
        return {"rows": [found.get(moment, {"time": moment, **empty}) for moment in times]}

    async def _log(self) -> dict[str, Any]:
        still = await waiting_letters(self._redis, self._control.state)
        models = self._control.state.provider_breakers
        return {
            "models": [_model(model, one) for model, one in models.items() if one.state != BreakerState.CLOSED],
            "lag": await lags(self._redis, self._partitions, self._clock.now_ms()),
            "dead_letters": {"waiting": len(still), "newest": still[:MOST]},
        }

    async def _once(self, view: View, what: str, ask: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        key = (view.role, *narrowing(view), what) if what != "log" else (what,)
        kept = self._remembered.get(key)
        if kept is None:
            kept = self._remembered[key] = _Remembered()
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return await kept.value(ask)


class _Remembered:
    """One answer; whoever asks while it is being found waits for the same."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._answer: dict[str, Any] = {}
        self._until = 0.0

    async def value(self, ask: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        async with self._lock:
            began = time.monotonic()
            if began >= self._until:
                self._answer = await ask()
                ended = time.monotonic()
                self._until = ended + max(FRESH_S, (ended - began) / SHARE)
            return self._answer


def fits(since: datetime, until: datetime, step: str) -> bool:
    """Whether that many steps can be shown at once."""
    return 0 < (until - since).total_seconds() <= MAX_POINTS * _SECONDS[step]


async def _listed(
    connection: Connection, view: View, listing: Listing, condition: str, order: str
) -> list[dict[str, Any]]:
    sql = (
        f"SELECT {listing.columns} FROM {listing.source} WHERE {NARROW} AND ({condition}) ORDER BY {order} LIMIT {MOST}"
    )
    return [dict(row) for row in await connection.fetch(sql, *narrowing(view))]


def _model(model: Model, breaker: ProviderBreaker) -> dict[str, Any]:
    until = None if breaker.until_ms is None else at(breaker.until_ms)
    named = {"provider": model[0], "model": model[1], "state": breaker.state, "reason": breaker.reason}
    return {**named, "since": at(breaker.since_ms), "until": until}
