"""The numbers that a person sees first: what flows, what it costs, what is stopped, what waits for somebody.

Many may look at once, and each look refreshes every few seconds: what was read a moment ago is shown again, and a
question that took the database long is asked as much less often.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from redis.asyncio import Redis

from services.ledger import quotas
from services.ledger.anomalies import DAYS, Seen, anomalies, compared
from services.ledger.keys import View
from services.ledger.lag import lags
from services.ledger.letters import waiting_letters
from services.ledger.lists import BREAKERS, QUOTAS, SHUTOFFS, SWITCHES, Listing, Page, read
from services.ledger.looking import LAST_HOUR, NARROW, Rows, looking, narrowing
from services.ledger.series import Step, series, single_hours
from services.ledger.sessions import Connection, Pool
from services.ledger.spending import SPEND_NOW, in_force, nearest
from shared.clock import Clock
from shared.events.decisions import BreakerState
from shared.events.envelope import at
from shared.provider_breakers import Model, ProviderBreaker
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions

FRESH_S = 1.0
# Reading takes at most this part of one connection's time.
SHARE = 0.1
MAX_REMEMBERED = 64
MOST = 20
# What was usual does not change from one look to the next.
UNUSUAL_FRESH_S = 30.0
# How many hours are looked at for the overview: the one that goes on, and those that have just ended.
UNUSUAL_HOURS = 3

_REASONS = f"""
SELECT status, coalesce(block_reason, failure_reason) AS reason, count(*) AS calls
FROM llm_api_calls
WHERE {NARROW} AND {LAST_HOUR} AND status IN ('blocked', 'failed')
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
_MONTH_OF_ALL = """
SELECT trim_scale(coalesce(sum(cost_cents), 0)) AS cost_cents, coalesce(sum(attempted + cached), 0)::bigint AS calls
FROM call_sums_of_all WHERE month = date_trunc('month', now(), 'UTC')
"""
_UNCERTAIN = f"""
SELECT count(*) AS attempts, trim_scale(coalesce(sum(reserved_cents), 0)) AS held_cents
FROM llm_budget_reservations WHERE {NARROW} AND state = 'held'
"""


class Overview:
    """Answers many looks with few questions."""

    def __init__(self, pool: Pool, redis: Redis, control: ControlReader, clock: Clock, partitions: Partitions) -> None:
        self._pool = pool
        self._redis = redis
        self._control = control
        self._clock = clock
        self._partitions = partitions
        self._remembered: OrderedDict[tuple[Any, ...], _Remembered] = OrderedDict()

    async def look(self, view: View) -> dict[str, Any]:
        """Everything at once, as fresh as it is cheap."""
        states, flow, unusual = await asyncio.gather(
            self._once(view, "states", lambda: self._states(view)),
            self._once(view, "flow", lambda: self._flow(view)),
            self._once(view, "unusual", lambda: self._unusual(view), UNUSUAL_FRESH_S),
        )
        found = {"at": at(self._clock.now_ms()), **states, **flow, **unusual}
        if view.is_operator:
            found |= await self._once(view, "log", self._log)
        return found

    async def series(self, view: View, since: datetime, until: datetime, step: Step) -> Rows:
        """Calls by end, and their cost, for each step of time; steps in which nothing happened are there too."""

        async def ask() -> dict[str, Any]:
            return {"rows": await series(self._pool, view, since, until, step)}

        return list((await self._once(view, f"series {since} {until} {step}", ask))["rows"])

    def in_force(self, windows: Rows) -> Rows:
        """These windows of spending, under the caps that hold now."""
        return in_force(windows, self._control.state.limits, at(self._clock.now_ms()))

    async def quotas(self, view: View, limit: int, before: str | None) -> Page:
        """A page of the quotas in force, with what they have counted."""
        async with looking(self._pool, view, QUOTAS.name) as connection:
            of_all, now_ms = self._control.state.quotas, self._clock.now_ms()
            return await quotas.page(connection, view, of_all, now_ms, limit=limit, before=before)

    async def unusual(self, view: View, since: datetime, until: datetime) -> Rows:
        """What was far from the usual for its hour, oldest first."""

        async def ask() -> dict[str, Any]:
            return {"rows": await self._anomalies(view, since, until)}

        return list((await self._once(view, f"unusual {since} {until}", ask, UNUSUAL_FRESH_S))["rows"])

    async def _states(self, view: View) -> dict[str, Any]:
        month, asked = (_MONTH_OF_ALL, ()) if view.is_of_all else (_MONTH, narrowing(view))
        async with looking(self._pool, view, None) as connection:
            caps = await read(connection, view, SPEND_NOW, limit=MOST, before=None)
            of_all, now_ms = self._control.state.quotas, self._clock.now_ms()
            return {
                "caps": nearest(caps.rows, self._control.state.limits),
                "quotas": await quotas.nearest(connection, view, of_all, now_ms, MOST) if of_all else [],
                "breakers": await _listed(connection, view, BREAKERS, "state <> 'closed'", "updated_at DESC"),
                "switches": await _listed(
                    connection, view, SWITCHES, "engaged AND (until IS NULL OR until > now())", "changed_at DESC"
                ),
                "shutoffs": await _listed(connection, view, SHUTOFFS, SHUTOFFS.always, "updated_at DESC"),
                "uncertain": dict(await connection.fetchrow(_UNCERTAIN, *narrowing(view))),
                "month": dict(await connection.fetchrow(month, *asked)),
            }

    async def _flow(self, view: View) -> dict[str, Any]:
        until = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        minutes = await series(self._pool, view, until - timedelta(hours=1), until, "minute")
        async with looking(self._pool, view, None) as connection:
            recent = dict(await connection.fetchrow(_RECENT, *narrowing(view)))
            reasons = [dict(row) for row in await connection.fetch(_REASONS, *narrowing(view))]
        return {"minutes": minutes, "reasons": reasons, **recent}

    async def _unusual(self, view: View) -> dict[str, Any]:
        now = at(self._clock.now_ms())
        return {"unusual": await self._anomalies(view, now - timedelta(hours=UNUSUAL_HOURS - 1), now)}

    async def _anomalies(self, view: View, since: datetime, until: datetime) -> Rows:
        since = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        hours = await single_hours(self._pool, view, compared(since, until), since - timedelta(days=DAYS))
        seen = {row["time"]: Seen(row["cost_cents"], Decimal(row["failed"])) for row in hours}
        return [asdict(one) for one in anomalies(seen, since, until)]

    async def _log(self) -> dict[str, Any]:
        still = await waiting_letters(self._redis, self._control.state)
        models = self._control.state.provider_breakers
        return {
            "models": [_model(model, one) for model, one in models.items() if one.state != BreakerState.CLOSED],
            "lag": await lags(self._redis, self._partitions.number, self._clock.now_ms()),
            "dead_letters": {"waiting": len(still), "newest": still[:MOST]},
        }

    async def _once(
        self, view: View, what: str, ask: Callable[[], Awaitable[dict[str, Any]]], fresh_s: float = FRESH_S
    ) -> dict[str, Any]:
        key = (view.role, *narrowing(view), what) if what != "log" else (what,)
        kept = self._remembered.get(key)
        if kept is None:
            kept = self._remembered[key] = _Remembered()
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return await kept.value(ask, fresh_s)


class _Remembered:
    """One answer; whoever asks while it is being found waits for the same."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._answer: dict[str, Any] = {}
        self._until = 0.0

    async def value(self, ask: Callable[[], Awaitable[dict[str, Any]]], fresh_s: float) -> dict[str, Any]:
        async with self._lock:
            began = time.monotonic()
            if began >= self._until:
                self._answer = await ask()
                ended = time.monotonic()
                self._until = ended + max(fresh_s, (ended - began) / SHARE)
            return self._answer


async def _listed(
    connection: Connection, view: View, listing: Listing, condition: str, order: str
) -> list[dict[str, Any]]:
    narrowed = f"WHERE {NARROW} AND ({condition})"
    sql = f"SELECT {listing.columns} FROM {listing.sources} {narrowed} ORDER BY {order} LIMIT {MOST}"
    return [dict(row) for row in await connection.fetch(sql, *narrowing(view))]


def _model(model: Model, breaker: ProviderBreaker) -> dict[str, Any]:
    until = None if breaker.until_ms is None else at(breaker.until_ms)
    named = {"provider": model[0], "model": model[1], "state": breaker.state, "reason": breaker.reason}
    return {**named, "since": at(breaker.since_ms), "until": until}
