"""What a restoration needs of the books, read on one snapshot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from services.ledger import event_pages
from services.ledger.sessions import Connection
from services.policy.state import Breaker, Hold
from shared.control_state import ControlState, order_of
from shared.events.decisions import BreakerState, ReservationEnded, TaskAllowed
from shared.events.envelope import Envelope, at
from shared.events.quotas import MeterReading
from shared.events.registry import EVENTS
from shared.money import sum_from_cents
from shared.quotas import NO_QUOTAS
from skeldir.restoring.accounts import Balance, TenantBooks, hold_of

PAGE = 2000
# No window of a quota is longer.
LONGEST_WINDOW = timedelta(days=32)

_TENANTS = "SELECT DISTINCT tenant_id FROM llm_monthly_budget_state"
_ORDERS = "SELECT entry_id, body FROM events WHERE partition IS NULL"
_PENDING = "SELECT id, tenant_id FROM llm_api_calls WHERE status = 'pending'"
_MONTHS = """
SELECT user_id, to_char(month, 'YYYY-MM') AS start, balance_version AS version, spent_cents AS spent,
       reserved_cents AS reserved, total_calls AS calls
FROM llm_monthly_budget_state WHERE tenant_id = $1 AND balance_version IS NOT NULL
"""
# Each user's newest hour, the tenant's, and those in which something is reserved.
_HOURS = """
WITH newest AS (
  SELECT user_id, max(hour_start) AS hour_start FROM llm_hourly_shutoff_state
  WHERE tenant_id = $1 AND balance_version IS NOT NULL GROUP BY user_id
)
SELECT user_id, to_char(hour_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24') AS start, balance_version AS version,
       total_cost_cents AS spent, reserved_cents AS reserved, total_calls AS calls
FROM llm_hourly_shutoff_state AS hours WHERE tenant_id = $1 AND balance_version IS NOT NULL AND (
  (user_id, hour_start) IN (SELECT user_id, hour_start FROM newest)
  OR hour_start IN (SELECT max(hour_start) FROM newest)
  OR to_char(hour_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24') = ANY ($2)
)
"""
_OPEN = "SELECT id, state FROM llm_budget_reservations WHERE tenant_id = $1 AND state IN ('reserved', 'held')"
_HELD_AS = "SELECT body FROM events WHERE tenant_id = $1 AND type = $2 AND subject = ANY ($3)"
_BREAKERS = """
SELECT user_id, state, failure_count, opened_at, last_trip_at FROM llm_breaker_state
WHERE tenant_id = $1 AND breaker_key = 'provider'
"""


async def orders(connection: Connection) -> list[tuple[str, str]]:
    """The control stream's entries, in their order: id and data."""
    rows = await connection.fetch(_ORDERS)
    return sorted(((row["entry_id"], row["body"]) for row in rows), key=lambda row: order_of(row[0]))


async def tenants(connection: Connection) -> list[UUID]:
    """Those that have accounts."""
    return [row["tenant_id"] for row in await connection.fetch(_TENANTS)]


async def pending(connection: Connection) -> dict[UUID, list[UUID]]:
    """Tasks without an end, by tenant."""
    found: defaultdict[UUID, list[UUID]] = defaultdict(list)
    for row in await connection.fetch(_PENDING):
        found[row["tenant_id"]].append(row["id"])
    return found


async def tenant_books(
    connection: Connection, tenant_id: UUID, control: ControlState, last_ms: int, archive: Path | None = None
) -> TenantBooks:
    """All that policy knew of a tenant; `last_ms`: when the books end. `archive`: the folder of archived events.

    Raises ArchiveProblem where they are needed: by a tenant with quotas that has a reservation of then. What else is
    needed here does not leave the database before it has ended.
    """
    holds = await _holds(connection, tenant_id)
    hours = sorted({hold.hour for hold in holds})
    balances = [_balance("month", row) for row in await connection.fetch(_MONTHS, tenant_id)]
    balances += [_balance("hour", row) for row in await connection.fetch(_HOURS, tenant_id, hours)]
    breakers = {row["user_id"]: _breaker(row) for row in await connection.fetch(_BREAKERS, tenant_id)}
    wanted = set(control.quotas.get(tenant_id, NO_QUOTAS).by_id) | {
        take.quota_id for hold in holds for take in hold.takes
    }
    readings = await _readings(connection, tenant_id, wanted, holds, last_ms, archive) if wanted else ()
    return TenantBooks(tenant_id, tuple(balances), holds, breakers, readings)


async def events_of(connection: Connection, tenant_id: UUID, task_ids: Iterable[UUID]) -> dict[UUID, list[Envelope]]:
    """All events of these tasks, in the order in which the books took them in."""
    found: defaultdict[UUID, list[Envelope]] = defaultdict(list)
    subjects = [str(task_id) for task_id in task_ids]
    for first in range(0, len(subjects), PAGE):
        query = "SELECT body FROM events WHERE tenant_id = $1 AND subject = ANY ($2) ORDER BY seq"
        for row in await connection.fetch(query, tenant_id, subjects[first : first + PAGE]):
            event = EVENTS.decode(row["body"])
            found[UUID(event.subject)].append(event)
    return found


async def _holds(connection: Connection, tenant_id: UUID) -> tuple[Hold, ...]:
    states = {row["id"]: row["state"] for row in await connection.fetch(_OPEN, tenant_id)}
    rows = await connection.fetch("SELECT body FROM events WHERE id = ANY ($1)", list(states))
    allowed = {event.id: event for event in (EVENTS.decode(row["body"]) for row in rows)}
    held = [allowed[one].subject for one, state in states.items() if state == "held"]
    ends = await connection.fetch(_HELD_AS, tenant_id, ReservationEnded.event_type, held)
    tasks = {}
    for end in (EVENTS.decode(row["body"]).data for row in ends):
        assert isinstance(end, ReservationEnded), "asked for"
        tasks[end.reservation_id] = end.task
    return tuple(
        hold_of(allowed[one], tasks[one] if state == "held" else None)
        for one, state in sorted(states.items(), key=lambda item: item[0].bytes)
    )


async def _readings(
    connection: Connection,
    tenant_id: UUID,
    wanted: set[str],
    holds: tuple[Hold, ...],
    last_ms: int,
    folder: Path | None,
) -> tuple[MeterReading, ...]:
    """The last reading of each quota and window. Only of tenants that have quotas: it reads their last month."""
    since = at(last_ms) - LONGEST_WINDOW
    open_holds = [str(hold.reservation_id) for hold in holds if hold.takes]
    oldest = await connection.fetchval("SELECT min(time) FROM events WHERE id = ANY ($1::uuid[])", open_holds)
    types = [TaskAllowed.event_type, ReservationEnded.event_type]
    latest: dict[tuple[str, str], tuple[tuple[int, int], MeterReading]] = {}
    async for page in event_pages.of_types(connection, tenant_id, types, min(since, oldest or since), folder):
        for row in page:
            data, place = EVENTS.decode(row["body"]).data, order_of(row["entry_id"])
            assert isinstance(data, TaskAllowed | ReservationEnded), "asked for"
            for one in data.quotas:
                key = (one.quota, one.window_start)
                if one.quota in wanted and (key not in latest or place > latest[key][0]):
                    latest[key] = (place, one)
    return tuple(reading for _, reading in latest.values())


def _balance(window: Any, row: Mapping[str, Any]) -> Balance:
    return Balance(
        user_id=row["user_id"],
        window=window,
        start=row["start"],
        version=row["version"],
        spent=sum_from_cents(row["spent"]),
        reserved=sum_from_cents(row["reserved"]),
        calls=row["calls"],
    )


def _breaker(row: Mapping[str, Any]) -> Breaker:
    opened, tripped = row["opened_at"], row["last_trip_at"]
    return Breaker(
        state=BreakerState(row["state"]),
        failures=row["failure_count"],
        opened_at_ms=None if opened is None else round(opened.timestamp() * 1000),
        last_trip_at_ms=None if tripped is None else round(tripped.timestamp() * 1000),
    )
