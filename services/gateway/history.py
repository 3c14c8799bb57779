"""Results that are no longer in the log: read from the ledger's tables, as the tenant and user they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg

from shared.events.results import ResultUsage, TaskResult
from shared.pooler import Pooler, pool_options
from shared.texts.data_keys import open_keys
from shared.texts.master_key import MasterKeys
from shared.texts.row import keys_of_row, readable_row

_FINGERPRINTS = "SELECT id, fingerprint FROM known_tasks($1)"
_QUERY = """
SELECT id, request_id, correlation_id, task_type, status, block_reason, failure_reason, was_cached, provider_attempted,
       output_text, provider, model, input_tokens, output_tokens, cost_cents, latency_ms
FROM llm_api_calls WHERE tenant_id = $1 AND id = $2 AND status <> 'pending'
"""
TIMEOUT_S = 5.0


class History:
    """One task's row, under row-level security. Without a database there is no history, and nothing else is missing."""

    def __init__(
        self, database_url: str | None, masters: MasterKeys | None = None, pooler: Pooler | None = None
    ) -> None:
        self._url = database_url
        self._options = {"reset": _nothing_to_reset, **pool_options(pooler)}
        self._masters = masters
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    @property
    def is_there(self) -> bool:
        """Whether there is a database to ask."""
        return self._url is not None

    async def fingerprints(self, task_ids: list[UUID]) -> dict[UUID, str]:
        """Of those that have ended: what each was (body and user). Raises as `result`."""
        pool = await self._opened()
        async with pool.acquire(timeout=TIMEOUT_S) as connection:
            rows = await connection.fetch(_FINGERPRINTS, task_ids)
        return {row["id"]: row["fingerprint"] for row in rows}

    async def result(self, tenant_id: UUID, user_id: UUID, task_id: UUID) -> TaskResult | None:
        """The result of an ended task. Its text is None where its key was destroyed, or is not to be had here.

        Raises asyncpg.PostgresError or OSError when the database cannot be read, UnusableMasterKey.
        """
        if self._url is None:
            return None
        pool = await self._opened()
        async with pool.acquire(timeout=TIMEOUT_S) as connection, connection.transaction(readonly=True):
            # Local to the transaction: the next borrower of this connection starts without a tenant.
            await connection.execute(
                "SELECT set_config('app.current_tenant_id', $1, true), set_config('app.current_user_id', $2, true)",
                str(tenant_id),
                str(user_id),
            )
            row = await connection.fetchrow(_QUERY, tenant_id, task_id)
            if row is None:
                return None
            keys = await open_keys(connection, self._masters, keys_of_row(dict(row)))
        return _result(readable_row(dict(row), keys))

    async def _opened(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url, min_size=0, max_size=4, command_timeout=TIMEOUT_S, **self._options
                )
            return self._pool

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()


async def _nothing_to_reset(_: object) -> None:
    """No setting outlives its transaction here, and resetting would be one more round trip for each question."""


def _result(row: Mapping[str, Any]) -> TaskResult:
    return TaskResult(
        task_id=row["id"],
        api_call_id=row["id"],
        request_id=row["request_id"],
        correlation_id=row["correlation_id"],
        task_type=row["task_type"],
        status=row["status"],
        blocked_reason=row["block_reason"],
        failure_reason=row["failure_reason"],
        was_cached=row["was_cached"],
        provider_attempted=row["provider_attempted"],
        output_text=row["output_text"],
        provider=row["provider"],
        model=row["model"],
        usage=ResultUsage(
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cost_cents=row["cost_cents"],
            latency_ms=row["latency_ms"],
        ),
    )
