"""Connections to PostgreSQL, and whose eyes they have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from shared.pooler import Pooler, pool_options

# The driver's own types are not generic at run time; a pool lends proxies that behave as connections.
Connection: TypeAlias = Any
Pool: TypeAlias = Any

COMMAND_TIMEOUT_S = 30.0
LEDGER = "skeldir_ledger"
USER = "app_ro"
LOCK = 0x536B656D
AUDITOR = "skeldir_auditor"
OPERATOR = "skeldir_operator"
UNUSABLE = (
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What the driver raises where the database cannot be reached, or refuses: who runs on waits, and asks again."""


class Busy(ValueError):
    """Others are at work on the books; the text says at what."""


def pool(database_url: str, *, name: str, size: int, pooler: Pooler | None = None) -> Pool:
    """A pool, not yet open: `await` it, or enter it."""
    return asyncpg.create_pool(
        database_url,
        min_size=0,
        max_size=size,
        command_timeout=COMMAND_TIMEOUT_S,
        timeout=5.0,
        server_settings={"application_name": name, "timezone": "UTC"},
        **pool_options(pooler),
    )


@asynccontextmanager
async def reading(
    connection: Connection, role: str | None, tenant_id: UUID | None, user_ids: Sequence[UUID] = ()
) -> AsyncIterator[None]:
    """A read-only transaction with the eyes of `role` on one tenant and some of its users.

    Role and settings are local to the transaction: the next borrower of a pooled connection finds none of them.
    """
    async with connection.transaction(readonly=True):
        await look_as(connection, role, tenant_id, user_ids)
        yield


async def look_as(
    connection: Connection, role: str | None, tenant_id: UUID | None, user_ids: Sequence[UUID] = ()
) -> None:
    """From here to the end of the transaction: `role` (None: the one that is connected), this tenant, these users."""
    await connection.execute(
        "SELECT set_config('app.current_tenant_id', $1, true), set_config('app.current_user_id', $2, true)",
        str(tenant_id or ""),
        ",".join(str(user_id) for user_id in user_ids),
    )
    if role is not None:
        await connection.execute(f"SET LOCAL ROLE {role}")


@asynccontextmanager
async def snapshot(database_url: str, exported: str | None = None, *, timeout_s: float) -> AsyncIterator[Connection]:
    """A connection of its own that sees the books of one moment, as the ledger does: of now, or of what another one has
    exported. Raises the driver's errors."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=timeout_s)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            if exported is not None:
                await connection.execute(f"SET TRANSACTION SNAPSHOT '{exported}'")
            await write_as_ledger(connection)
            if exported is None:
                await keep_events(connection)
            yield connection
    finally:
        await connection.close()


async def export(connection: Connection) -> str:
    """By which others see what this transaction sees, as long as it lasts."""
    return str(await connection.fetchval("SELECT pg_export_snapshot()"))


async def keep_events(connection: Connection) -> None:
    """In this transaction: no events go to an archive, out of what it has seen of the books."""
    await connection.execute("LOCK TABLE events IN ACCESS SHARE MODE")


@asynccontextmanager
async def alone(connection: Connection) -> AsyncIterator[None]:
    """As long as the block, and connected: no other rebuild, and nothing goes to an archive. Raises Busy.

    Given back before the connection ends: the server ends it in its own time, and keeps the lock until then, in the way
    of who begins next.
    """
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        raise Busy("another rebuild or archiving is under way")
    try:
        yield
    finally:
        with suppress(*UNUSABLE):  # where it was lost, the lock is, too
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def write_as_ledger(connection: Connection) -> None:
    """In this transaction: the ledger's own role, also where the owner is connected (for the command line)."""
    await connection.execute(f"SET LOCAL ROLE {LEDGER}")
