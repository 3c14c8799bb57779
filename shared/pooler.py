"""PostgreSQL behind a pooler that lends a server for the time of a transaction (PgBouncer's `pool_mode = transaction`).

The driver prepares a statement in one round trip and runs it in the next, and keeps what it has prepared. Outside of
a transaction the second trip may reach a server that never heard of the first. So nothing is kept, and each statement
runs in a transaction. Settings are local to a transaction everywhere, with or without a pooler.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import asyncpg

Pooler = Literal["transaction"]


class _InTransactions(asyncpg.Connection):
    """A connection whose statements with parameters never run outside of a transaction."""

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        if not args:  # one round trip; and so is what begins a transaction
            return await super().execute(query, **options)
        async with self._within():
            return await super().execute(query, *args, **options)

    async def executemany(self, command: str, args: Any, **options: Any) -> Any:
        async with self._within():
            return await super().executemany(command, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._within():
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._within():
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._within():
            return await super().fetchval(query, *args, **options)

    @asynccontextmanager
    async def _within(self) -> AsyncIterator[None]:
        if self.is_in_transaction():
            yield
        else:
            async with self.transaction():
                yield


async def _nothing_to_reset(_: Any) -> None:
    """The server goes to whoever comes next anyway."""


def pool_options(pooler: Pooler | None) -> dict[str, Any]:
    """What a pool of the driver's has to be told."""
    if pooler is None:
        return {}
    return {"statement_cache_size": 0, "connection_class": _InTransactions, "reset": _nothing_to_reset}
