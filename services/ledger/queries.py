"""What the read API asks of one call, and of the dashboards. Row-level security decides what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from services.ledger.dashboards import BY_NAME, Dashboard
from services.ledger.keys import Refused, View, narrowed
from services.ledger.lists import CALL_DETAIL, EVENTS, ORDERS, Listing, Page, page, read
from services.ledger.looking import NARROW, looking, narrowing
from services.ledger.sessions import Pool
from services.ledger.why import as_caused
from shared.texts.cipher import keys_in
from shared.texts.data_keys import open_keys
from shared.texts.master_key import MasterKeys
from shared.texts.payload import decrypted
from shared.texts.row import keys_of_row, readable_row

MAX_EVENTS = 1000
# What a list of orders leaves out: the address of a webhook may be a secret by itself.
_UNSAID = ("type", "secret_sha256", "url")

# The months of a call whose events are in an archive; none where its first event is here, for they go together.
_ARCHIVED = """
SELECT archived_months(created_at, updated_at) FROM llm_api_calls WHERE id = $1 AND NOT EXISTS (
  SELECT FROM events WHERE events.tenant_id = llm_api_calls.tenant_id AND subject = $1::text
    AND type = 'task.submitted' AND time >= created_at)
"""


@dataclass(frozen=True, slots=True)
class Timeline(Page):
    """The events of a task. `archived`: the months, as 2025-03, of which those are in an archive, and not here."""

    archived: list[str]


async def call(pool: Pool, masters: MasterKeys | None, view: View, call_id: UUID) -> dict[str, Any] | None:
    """One call with its output, or None where there is none in view."""
    sql = f"SELECT {CALL_DETAIL} FROM llm_api_calls WHERE {NARROW} AND id = $3"
    async with looking(pool, view, f"calls/{call_id}") as connection:
        found = await connection.fetchrow(sql, *narrowing(view), call_id)
        if found is None:
            return None
        row = dict(found)
        for name in ("reasoning_trace_ref", "response_metadata_ref", "request_metadata_ref"):
            row[name] = None if row[name] is None else orjson.loads(row[name])
        keys = await open_keys(connection, masters, keys_of_row(row))
    return readable_row(row, keys)


async def events(
    pool: Pool,
    masters: MasterKeys | None,
    view: View,
    task_id: UUID,
    limit: int = MAX_EVENTS,
    before: str | None = None,
) -> Timeline:
    """The events of a task, in the order in which they happened: none before what caused it."""
    async with looking(pool, view, f"events?task_id={task_id}") as connection:
        found = await read(connection, view, EVENTS, limit=limit, before=before, task_id=str(task_id))
        archived = await connection.fetchval(_ARCHIVED, task_id) or []
        keys = await open_keys(connection, masters, {key for row in found.rows for key in keys_in(row["body"])})
    for row in found.rows:
        data = orjson.loads(row.pop("body")).get("data")
        row["data"] = decrypted(data, keys) if isinstance(data, dict) else data
    return Timeline(as_caused(found.rows), found.next, [f"{month:%Y-%m}" for month in archived])


async def orders(pool: Pool, view: View, *, limit: int, before: str | None, **wanted: Any) -> Page:
    """What was ordered, by whom and why, the newest first."""
    found = await page(pool, view, ORDERS, limit=limit, before=before, **wanted)
    for row in found.rows:
        said = orjson.loads(row.pop("body"))
        row |= {name: said.pop(name, None) for name in ("actor", "reason", "scope")}
        row["order"] = {name: value for name, value in said.items() if name not in _UNSAID}
    return found


async def dashboard(pool: Pool, view: View, name: str, limit: int, before: str | None) -> Page:
    """A page of a dashboard's rows. Raises Refused (404) for an unknown name."""
    wanted = BY_NAME.get(name)
    if wanted is None:
        raise Refused(404, "unknown_dashboard", f"no dashboard {name[:100]!r}; there are {', '.join(BY_NAME)}")
    return await page(pool, narrowed(view), list_of(wanted), limit=limit, before=before)


def list_of(dashboard: Dashboard) -> Listing:
    """A dashboard as a list, which the reader's own eyes narrow."""
    name, columns = dashboard.name, ", ".join(dashboard.columns)
    return Listing(f"dashboards/{name}", columns, f"dashboard_{name}", dashboard.key, narrow=())
