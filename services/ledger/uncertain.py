"""Attempts whose end nobody knows, across tenants: what `skeldir reconcile` lists and settles."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger.dashboards import UNCERTAIN_ATTEMPTS
from services.ledger.sessions import COMMAND_TIMEOUT_S, write_as_ledger

MOST = 1000


async def uncertain(database_url: str, name: str | None = None) -> list[dict[str, Any]]:
    """The oldest of them, or those that `name` (of a request, a task or a decision) is about. As the owner role."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with connection.transaction(readonly=True):
            await write_as_ledger(connection)
            rows = await connection.fetch(
                f"SELECT {', '.join(UNCERTAIN_ATTEMPTS.columns)} FROM dashboard_{UNCERTAIN_ATTEMPTS.name} "
                "WHERE $1::text IS NULL OR $1 IN (request_id, task_id::text, decision_id::text) "
                f"ORDER BY {UNCERTAIN_ATTEMPTS.order} LIMIT {MOST}",
                name,
            )
    finally:
        await connection.close()
    return [dict(row) for row in rows]


async def settled_at(database_url: str, decision_id: UUID) -> Decimal | None:
    """The cents at which an attempt was settled; None while it is uncertain. As the owner role."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with connection.transaction(readonly=True):
            await write_as_ledger(connection)
            found: Decimal | None = await connection.fetchval(
                "SELECT trim_scale(coalesce(settled_cents, 0)) FROM llm_budget_reservations "
                "WHERE id = $1 AND state <> 'held'",
                decision_id,
            )
    finally:
        await connection.close()
    return found
