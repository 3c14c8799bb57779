"""The lists of the read API: what each shows, in which order, and by what it is narrowed.

Pages are cut by key, not by number: the cursor is the key of the last row, so a page is as quick as the first one, and
rows that come meanwhile shift nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from services.ledger.keys import Refused, View
from services.ledger.looking import Rows, looking, narrowing
from services.ledger.sessions import Connection, Pool

MAX_CURSOR = 2000


@dataclass(frozen=True, slots=True)
class Listing:
    """One list. `key` (column to type) is unique and orders it; `narrow`: by tenant and user, where it has them.

    `sources`: what its rows come from; each is asked for a page of its own, by its own indexes. `within`: what has one
    value in each source, and comes before the key there: where an index begins with it, the page is in its order.
    """

    name: str
    columns: str
    sources: str | Sequence[str]
    key: Mapping[str, str]
    descending: bool = False
    filters: Mapping[str, str] = field(default_factory=dict)
    narrow: Sequence[str] = ("tenant_id", "user_id")
    always: str = "true"
    within: Sequence[str] = ()


_CALL = (
    "id, tenant_id, user_id, endpoint, request_id, task_type, provider, model, requested_model, correlation_id, "
    "status, block_reason, failure_reason, failure_detail, was_cached, provider_attempted, attempts, breaker_state, "
    "input_tokens, output_tokens, latency_ms, trim_scale(cost_cents) AS cost_cents, "
    "trim_scale(budget_reservation_cents) AS budget_reservation_cents, "
    "trim_scale(budget_settled_cents) AS budget_settled_cents, "
    "cache_key, cache_watermark, created_at, decided_at, ended_at"
)
CALL_DETAIL = f"{_CALL}, output_text, reasoning_trace_ref, response_metadata_ref, request_metadata_ref"

CALLS = Listing(
    "calls",
    _CALL,
    "llm_api_calls",
    {"created_at": "timestamptz", "id": "uuid"},
    descending=True,
    filters={
        "status": "status = {}",
        "reason": "(block_reason = {0} OR failure_reason = {0})",
        "provider": "provider = {}",
        "model": "model = {}",
        "task_type": "task_type = {}",
        "since": "created_at >= {}",
        "until": "created_at < {}",
        "q": "(request_id = {0} OR correlation_id = {0})",
        "q_id": "(id = {0}::text::uuid OR request_id = {0}::text OR correlation_id = {0}::text)",
        "q_prefix": "(starts_with(request_id, {0}) OR starts_with(correlation_id, {0}))",
    },
)
# The months before it was accepted need not be looked through.
_OF_TASK = (
    "subject = {0}::text "
    "AND time >= coalesce((SELECT created_at FROM llm_api_calls WHERE id = {0}::text::uuid), '-infinity')"
)
EVENTS = Listing(
    "events",
    "id, type, version, time, stream, entry_id, tenant_id, user_id, subject, correlation_id, causation_id, body",
    "events",
    {"time": "timestamptz", "seq": "bigint"},
    filters={"task_id": _OF_TASK},
)
# Few, and never archived: an index has them alone.
ORDERS = Listing(
    "orders",
    "time, entry_id, type, tenant_id, user_id, body",
    "events",
    {"time": "timestamptz", "seq": "bigint"},
    descending=True,
    filters={"type": "type = {}", "since": "time >= {}", "until": "time < {}"},
    always="partition IS NULL",
)

BREAKERS = Listing(
    "breakers",
    "tenant_id, user_id, breaker_key, state, failure_count, opened_at, last_trip_at, reason, updated_at",
    "llm_breaker_state",
    {"tenant_id": "uuid", "user_id": "uuid", "breaker_key": "text"},
    filters={"state": "state = {}"},
)
SHUTOFFS = Listing(
    "shutoffs",
    "tenant_id, user_id, hour_start, is_tripped, manual_engaged, reason, manual_actor AS actor, disabled_until, "
    "trim_scale(total_cost_cents) AS spent_cents, trim_scale(threshold_cents) AS threshold_cents, updated_at",
    "llm_hourly_shutoff_state",
    {"hour_start": "timestamptz", "tenant_id": "uuid", "user_id": "uuid"},
    descending=True,
    always="is_shutoff AND (disabled_until IS NULL OR disabled_until > now())",
)
SWITCHES = Listing(
    "switches",
    "scope_key, tenant_id, user_id, provider, model, task_type, "
    "engaged AND (until IS NULL OR until > now()) AS holds, reason, actor, until, changed_at",
    "kill_switches",
    {"scope_key": "text"},
    filters={"holds": "(engaged AND (until IS NULL OR until > now())) = {}"},
)
LIMITS = Listing(
    "limits",
    "tenant_id, owner, user_id, trim_scale(hourly_cents) AS hourly_cents, trim_scale(monthly_cents) AS monthly_cents, "
    "max_in_flight, actor, reason, updated_at",
    "tenant_limits",
    {"tenant_id": "uuid", "owner": "text"},
)
_ORDERED = "actor, reason, changed_at"
QUOTAS = Listing(
    "quotas",
    "tenant_id, user_id, key_id, provider, model, task_type, unit, quota_window AS window, "
    f'coalesce(most, trim_scale(most_cents)) AS "limit", shadow, {_ORDERED}',
    "tenant_quotas",
    {"tenant_id": "uuid", "quota_key": "text"},
    always="in_force",
)
BOUNDS = Listing(
    "bounds",
    f"tenant_id, task_type, timeout_ms, trim_scale(max_cost_cents) AS max_cost_cents, max_tool_calls, {_ORDERED}",
    "task_bounds",
    {"bounds_key": "text"},
    narrow=("tenant_id",),
    always="in_force",
)
DOWNGRADES = Listing(
    "downgrades",
    'tenant_id, user_id, task_type, model_pattern AS model, to_model AS "to", from_percent AS percent, '
    f"budget_window AS window, shadow, {_ORDERED}",
    "downgrades",
    {"tenant_id": "uuid", "downgrade_key": "text"},
    always="in_force",
)
UNCERTAIN = Listing(
    "uncertain",
    "tenant_id, user_id, request_id, endpoint, task_id, decision_id, provider, model, status, failure_reason, "
    "reserved_cents, held_since",
    "dashboard_uncertain_attempts",
    {"held_since": "text", "decision_id": "uuid"},
)
DEAD_LETTERS = Listing(
    "dead_letters",
    "letter_id, origin, entry_id, reason, encode(substring(type from 1 for 200), 'escape') AS type, "
    "encode(substring(data from 1 for 4000), 'escape') AS data, recorded_at",
    "dead_letters",
    {"recorded_at": "timestamptz", "origin": "text", "entry_id": "text"},
    descending=True,
    filters={"since": "recorded_at >= {}", "until": "recorded_at < {}"},
    narrow=(),
)
READS = Listing(
    "reads",
    "id, at, key_id, key_tenant_id, what, tenant_id, user_id",
    "read_audit",
    {"at": "timestamptz", "id": "uuid"},
    descending=True,
    filters={"since": "at >= {}", "until": "at < {}"},
)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and the cursor of the next page, or None."""

    rows: Rows
    next: str | None


def searched(q: str | None) -> dict[str, str | None]:
    """The filter of CALLS for what somebody looks for: an id, or with a `*` at its end how one begins."""
    if q is None:
        return {}
    if q.endswith("*"):
        return {"q_prefix": q[:-1]}
    try:
        return {"q_id": str(UUID(q))}
    except ValueError:
        return {"q": q}


async def page(pool: Pool, view: View, listing: Listing, *, limit: int, before: str | None, **wanted: Any) -> Page:
    """One page. `wanted` are values of the listing's filters; None narrows nothing. Raises Refused (422)."""
    async with looking(pool, view, listing.name) as connection:
        return await read(connection, view, listing, limit=limit, before=before, **wanted)


async def read(
    connection: Connection, view: View, listing: Listing, *, limit: int, before: str | None, **wanted: Any
) -> Page:
    """The same, with the eyes that the connection has."""
    sql, values = question(view, listing, limit, before, wanted)
    found = [dict(row) for row in await connection.fetch(sql, *values)]
    last: list[str] = []
    for row in found:
        last = [row.pop(f"key_{number}") for number in range(len(listing.key))]
    return Page(found, _cursor(last) if len(found) == limit else None)


def question(
    view: View, listing: Listing, limit: int, before: str | None, wanted: Mapping[str, Any]
) -> tuple[str, list[Any]]:
    """SQL and parameters of one page."""
    conditions, values = [listing.always], list[Any]()
    named = dict(zip(("tenant_id", "user_id"), narrowing(view), strict=True))
    for column in listing.narrow:
        if named[column] is not None:
            values.append(named[column])
            conditions.append(f"{column} = ${len(values)}")
    for name, value in wanted.items():
        if value is not None:
            values.append(value)
            conditions.append(listing.filters[name].format(f"${len(values)}"))
    if before is not None:
        places = []
        for part, kind in zip(_read_cursor(before, len(listing.key)), listing.key.values(), strict=True):
            values.append(part)
            places.append(f"${len(values)}::text::{kind}")
        conditions.append(f"({', '.join(listing.key)}) {'<' if listing.descending else '>'} ({', '.join(places)})")
    direction = " DESC" if listing.descending else ""
    keys = ", ".join(f"({column})::text AS key_{number}" for number, column in enumerate(listing.key))
    narrowed = f"WHERE {' AND '.join(conditions)}"
    cut = _cut(listing.key, direction, limit)
    if isinstance(listing.sources, str):
        return f"SELECT {listing.columns}, {keys} FROM {listing.sources} {narrowed} {cut}", values
    first = _cut((*listing.within, *listing.key), direction, limit)
    pages = " UNION ALL ".join(f"(SELECT * FROM ({one}) AS one {narrowed} {first})" for one in listing.sources)
    return f"SELECT {listing.columns}, {keys} FROM ({pages}) AS found {cut}", values


def _cut(order: Iterable[str], direction: str, limit: int) -> str:
    return f"ORDER BY {', '.join(column + direction for column in order)} LIMIT {limit}"


def _cursor(key: list[str]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(key)).rstrip(b"=").decode()


def _read_cursor(cursor: str, parts: int) -> list[str]:
    try:
        found = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(found, list) or len(found) != parts or not all(isinstance(part, str) for part in found):
            raise ValueError("another list's")
    except (ValueError, binascii.Error) as error:
        raise Refused(422, "invalid_cursor", "before is the `next` of an earlier answer") from error
    return found
