"""What the read API asks. Row-level security decides what comes back; the conditions here only narrow it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from services.ledger.dashboards import BY_NAME
from services.ledger.keys import Refused, View
from services.ledger.sessions import Connection, Pool, look_as

CALL_COLUMNS = (
    "id, tenant_id, user_id, endpoint, request_id, task_type, provider, model, correlation_id, status, block_reason, "
    "failure_reason, failure_detail, was_cached, provider_attempted, attempts, breaker_state, input_tokens, "
    "output_tokens, latency_ms, trim_scale(cost_cents) AS cost_cents, "
    "trim_scale(budget_reservation_cents) AS budget_reservation_cents, "
    "trim_scale(budget_settled_cents) AS budget_settled_cents, "
    "cache_key, cache_watermark, created_at, decided_at, ended_at"
)
DETAIL_COLUMNS = f"{CALL_COLUMNS}, output_text, reasoning_trace_ref, response_metadata_ref, request_metadata_ref"
EVENT_COLUMNS = (
    "id, type, version, time, stream, entry_id, tenant_id, user_id, subject, correlation_id, causation_id, body"
)
MAX_EVENTS = 1000

Rows = list[dict[str, Any]]


async def calls(
    pool: Pool, view: View, *, limit: int, before: tuple[datetime, UUID] | None, status: str | None
) -> Rows:
    """Calls, newest first, from behind `before`."""
    created_at, call_id = before or (None, None)
    return await _ask(
        pool,
        view,
        "calls",
        f"SELECT {CALL_COLUMNS} FROM llm_api_calls WHERE {_NARROW} AND ($3::text IS NULL OR status = $3) "
        "AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5)) ORDER BY created_at DESC, id DESC LIMIT $6",
        status,
        created_at,
        call_id,
        limit,
    )


async def call(pool: Pool, view: View, call_id: UUID) -> dict[str, Any] | None:
    """One call with its output, or None where there is none in view."""
    sql = f"SELECT {DETAIL_COLUMNS} FROM llm_api_calls WHERE {_NARROW} AND id = $3"
    rows = await _ask(pool, view, f"calls/{call_id}", sql, call_id)
    for row in rows:
        for name in ("reasoning_trace_ref", "response_metadata_ref", "request_metadata_ref"):
            row[name] = None if row[name] is None else orjson.loads(row[name])
    return rows[0] if rows else None


async def timeline(pool: Pool, view: View, task_id: UUID) -> Rows:
    """The events of a task, in the order in which they happened."""
    rows = await _ask(
        pool,
        view,
        f"events?task_id={task_id}",
        f"SELECT {EVENT_COLUMNS} FROM events WHERE {_NARROW} AND subject = $3 ORDER BY time, seq LIMIT {MAX_EVENTS}",
        str(task_id),
    )
    for row in rows:
        row["data"] = orjson.loads(row.pop("body")).get("data")
    return rows


async def dashboard(pool: Pool, view: View, name: str) -> Rows:
    """The rows of a dashboard. Raises Refused (404) for an unknown name."""
    wanted = BY_NAME.get(name)
    if wanted is None:
        raise Refused(404, f"no dashboard {name[:100]!r}; there are {', '.join(BY_NAME)}")
    return await _ask(pool, view, f"dashboards/{name}", wanted.sql, narrow=False)


# An operator sees everything; parameters narrow it. For the other roles the policies say the same once more.
_NARROW = "($1::uuid IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR user_id = $2)"


async def _ask(pool: Pool, view: View, what: str, sql: str, *arguments: Any, narrow: bool = True) -> Rows:
    """Run one query with the view's eyes. An operator's look across tenants is written down first, or not made."""
    user_id = view.user_ids[0] if view.user_ids else None
    values = (view.tenant_id, user_id, *arguments) if narrow else arguments
    async with pool.acquire() as connection, connection.transaction():
        if view.is_operator:
            await _record(connection, view, what, user_id)
        await look_as(connection, view.role, view.tenant_id, view.user_ids)
        rows = await connection.fetch(sql, *values)
    return [_plain(row) for row in rows]


async def _record(connection: Connection, view: View, what: str, user_id: UUID | None) -> None:
    await connection.execute(
        "INSERT INTO read_audit (key_id, key_tenant_id, what, tenant_id, user_id) VALUES ($1, $2, $3, $4, $5)",
        view.key.key_id,
        view.key.tenant_id,
        what,
        view.tenant_id,
        user_id,
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Amounts as JSON numbers; the rest as it is."""
    return {name: _number(value) if isinstance(value, Decimal) else value for name, value in row.items()}


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)
