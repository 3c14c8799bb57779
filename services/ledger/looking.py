"""A look into the books: with the view's eyes, bounded in time, written down where it shows more users than one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from services.ledger.keys import View
from services.ledger.replica import primary_of
from services.ledger.sessions import Connection, Pool, look_as

# A question that takes longer is stopped: the database has books to write.
STATEMENT_TIMEOUT_MS = 5000

# Looks are short: compiling a plan, or starting workers for it, takes longer than they do. The planner cannot know it,
# since it counts the sums that row-level security then leaves out.
_SHORT = (
    "SELECT set_config('statement_timeout', $1, true), set_config('jit', 'off', true), "
    "set_config('max_parallel_workers_per_gather', '0', true)"
)

Rows = list[dict[str, Any]]

# An operator sees everything; parameters narrow it. For the other roles the policies say the same once more.
NARROW = "($1::uuid IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR user_id = $2)"
# What a person sees side by side is of one hour: this minute and the 59 before it, as charts by minute have them.
LAST_HOUR = "created_at >= date_trunc('minute', now()) - interval '59 minutes'"


def narrowing(view: View) -> tuple[Any, Any]:
    """The two parameters of NARROW."""
    return view.tenant_id, view.user_ids[0] if view.user_ids else None


@asynccontextmanager
async def looking(pool: Pool, view: View, what: str | None) -> AsyncIterator[Connection]:
    """A transaction with the view's eyes. A look across users is written down first as `what`, or not made.

    None: it goes on from a look that was written down (a page that keeps itself fresh).
    """
    noted = what if view.is_wide else None
    if noted is not None and (primary := primary_of(pool)) is not None:
        async with primary.acquire() as connection:
            await _record(connection, view, noted)
        noted = None
    async with pool.acquire() as connection, connection.transaction():
        if noted is not None:
            await _record(connection, view, noted)
        await connection.execute(_SHORT, str(STATEMENT_TIMEOUT_MS))
        await look_as(connection, view.role, view.tenant_id, view.user_ids)
        yield connection


async def ask(pool: Pool, view: View, what: str, sql: str, *arguments: Any) -> Rows:
    """The rows of one query, whose first two parameters are NARROW's."""
    async with looking(pool, view, what) as connection:
        rows = await connection.fetch(sql, *narrowing(view), *arguments)
    return [dict(row) for row in rows]


async def _record(connection: Connection, view: View, what: str) -> None:
    tenant_id, user_id = narrowing(view)
    await connection.execute(
        "INSERT INTO read_audit (key_id, key_tenant_id, what, tenant_id, user_id) VALUES ($1, $2, $3, $4, $5)",
        view.key.key_id,
        view.key.tenant_id,
        what,
        tenant_id,
        user_id,
    )


def as_json(value: Any) -> Any:
    """What JSON has no type for: amounts as numbers, times and ids as text. For `orjson`'s `default`."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
