"""What a kill switch would stop: the tasks in its scope that are under way, and what usually goes through there."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg

from services.ledger.looking import LAST_HOUR
from services.ledger.sessions import COMMAND_TIMEOUT_S, Connection, write_as_ledger
from shared.events.control import Scope

_IN_SCOPE = (
    "($1::uuid IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR user_id = $2) "
    "AND ($3::text IS NULL OR provider = $3) AND ($4::text IS NULL OR model = $4) "
    "AND ($5::text IS NULL OR task_type = $5)"
)
# By their time, and from what is under way: never all calls.
_REACH = f"""
SELECT coalesce(sum(under_way), 0)::bigint AS under_way, count(*) FILTER (WHERE attempted) AS calls,
       coalesce(trim_scale(sum(cost_cents)), 0) AS cost_cents,
       count(DISTINCT tenant_id) AS tenants, count(DISTINCT (tenant_id, user_id)) AS users
FROM (
  SELECT tenant_id, user_id, 0 AS under_way, provider_attempted AS attempted, cost_cents FROM llm_api_calls
  WHERE {LAST_HOUR} AND status <> 'pending' AND {_IN_SCOPE}
  UNION ALL
  SELECT tenant_id, user_id, calls, false, 0 FROM calls_under_way WHERE {_IN_SCOPE}
) AS seen
"""


@dataclass(frozen=True, slots=True)
class Reach:
    """`under_way`: accepted and not ended. The rest is of the last hour: calls of a provider, their cost, and whose."""

    under_way: int
    calls: int
    cost_cents: Decimal
    tenants: int
    users: int


async def reach(database_url: str, scope: Scope) -> Reach:
    """What is in the scope, as far as the ledger has read. As the owner role."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with connection.transaction(readonly=True):
            await write_as_ledger(connection)
            return await look(connection, scope)
    finally:
        await connection.close()


async def look(connection: Connection, scope: Scope) -> Reach:
    """The same, with the eyes that the connection has."""
    parts = (scope.tenant_id, scope.user_id, scope.provider, scope.model, scope.task_type)
    return Reach(**dict(await connection.fetchrow(_REACH, *parts)))
