"""What the read API asks of one call, and of the dashboards. Row-level security decides what comes back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from services.ledger.dashboards import BY_NAME
from services.ledger.keys import Refused, View
from services.ledger.lists import CALL_DETAIL
from services.ledger.looking import NARROW, Rows, ask, looking
from services.ledger.sessions import Pool

EVENT_COLUMNS = (
    "id, type, version, time, stream, entry_id, tenant_id, user_id, subject, correlation_id, causation_id, body"
)
MAX_EVENTS = 1000


async def call(pool: Pool, view: View, call_id: UUID) -> dict[str, Any] | None:
    """One call with its output, or None where there is none in view."""
    sql = f"SELECT {CALL_DETAIL} FROM llm_api_calls WHERE {NARROW} AND id = $3"
    rows = await ask(pool, view, f"calls/{call_id}", sql, call_id)
    for row in rows:
        for name in ("reasoning_trace_ref", "response_metadata_ref", "request_metadata_ref"):
            row[name] = None if row[name] is None else orjson.loads(row[name])
    return rows[0] if rows else None


async def events(pool: Pool, view: View, task_id: UUID) -> Rows:
    """The events of a task, in the order in which they happened."""
    rows = await ask(
        pool,
        view,
        f"events?task_id={task_id}",
        f"SELECT {EVENT_COLUMNS} FROM events WHERE {NARROW} AND subject = $3 ORDER BY time, seq LIMIT {MAX_EVENTS}",
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
    async with looking(pool, view, f"dashboards/{name}") as connection:
        return [dict(row) for row in await connection.fetch(wanted.sql)]
