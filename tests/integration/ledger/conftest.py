"""The ledger on real servers, in the database and Redis roles that it has in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from redis.asyncio import Redis

from services.ledger import migrate, sessions
from services.ledger.keyring import Keyring
from services.ledger.projections import TABLES
from services.ledger.rollups import ROLLUPS
from services.ledger.sources import PartitionSource
from services.ledger.writer import Writer
from services.policy.decide import Owner
from shared.events.envelope import Envelope
from shared.partitions import Partition
from shared.settings import Settings
from skeldir.embedded import EmbeddedPostgres
from skeldir.server_roles import ROLES_SQL
from tests.unit.ledger.history import HOUR_MS, NAMES, START_MS, History, Op, play

DEADLINE_S = 60.0  # of what comes at once on a machine that is not busy


async def eventually(look: Callable[[], Awaitable[Any]], what: str) -> Any:
    """The first result of `look` that is true."""
    async with asyncio.timeout(DEADLINE_S):
        while not (found := await look()):
            await asyncio.sleep(0.01)
    return found


@contextmanager
def own_database(postgres: EmbeddedPostgres, name: str, like: str | None = None) -> Iterator[Callable[[str], str]]:
    """A database of a test's own: its URL in a role. `like`: a copy of another one, to which nobody is connected."""

    def url(role: str) -> str:
        return f"{postgres.url(role).rpartition('/')[0]}/{name}"

    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} {'' if like is None else f'TEMPLATE {like}'}".encode())
    if like is None:
        with psycopg.connect(url("postgres"), autocommit=True) as inside:
            inside.execute(ROLES_SQL.read_text().encode())
        migrate.upgrade(url("skeldir_owner"))
    yield url
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Callable[[str], str]:
    """The books that these tests share with others, unless their module has its own: their URL in a role."""
    return postgres.url


@pytest.fixture
async def as_ledger(database: Callable[[str], str]) -> AsyncIterator[Any]:
    """A connection as the ledger service."""
    connection = await asyncpg.connect(database("skeldir_ledger"))
    yield connection
    await connection.close()


@pytest.fixture
async def as_user(database: Callable[[str], str]) -> AsyncIterator[Any]:
    """A connection as a reader."""
    connection = await asyncpg.connect(database("app_user"))
    yield connection
    await connection.close()


@pytest.fixture
async def as_superuser(database: Callable[[str], str]) -> AsyncIterator[Any]:
    """A connection that sees everything, to check the others by."""
    connection = await asyncpg.connect(database("postgres"))
    yield connection
    await connection.close()


@dataclass
class Bench:
    """One partition of a test's own: what policy, gateway and executor would have written, and the ledger's writer."""

    redis_as: Callable[[str], Redis]
    database_url: str
    partition: Partition
    tenant: UUID
    users: tuple[UUID, UUID]

    @property
    def owners(self) -> tuple[Owner, Owner]:
        return Owner(self.tenant, self.users[0]), Owner(self.tenant, self.users[1])

    def history(self, ops: Sequence[Op]) -> History:
        """A history of this bench's tenant, at a moment of its own, so that its orders have ids of their own."""
        days, ms = self.tenant.int % 600, self.tenant.int // 600 % 500_000
        return play(ops, self.owners, START_MS - days * 24 * HOUR_MS + ms)

    async def append(self, *entries: tuple[str, str, Envelope]) -> None:
        """Into the log, each event into its stream of this partition."""
        admin = self.redis_as("admin")
        for stream, _, event in entries:
            stage = stream.rpartition(":")[2]
            await admin.xadd(getattr(self.partition, stage), event.to_entry())

    @asynccontextmanager
    async def writer(self, name: str = "one", keyring: Keyring | None = None, **changed: Any) -> AsyncIterator[Writer]:
        """A writer that wants this partition, until the block ends (it is then killed, not stopped)."""
        redis = self.redis_as("ledger")
        settings = Settings(lease_ttl_ms=500).model_copy(update=changed)
        pooled = settings.database_pooler
        async with sessions.pool(self.database_url, name=name, size=2, pooler=pooled) as pool:
            source, partition = PartitionSource(self.partition, keyring), self.partition
            lease = partition.lease("ledger")
            writer = Writer(pool, redis, source, lease, name, settings, partition.ledger, keyring=keyring)
            task = asyncio.create_task(writer.run())
            try:
                yield writer
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def bench(redis_as: Callable[[str], Redis], database: Callable[[str], str]) -> Bench:
    """A partition and a tenant that no other test uses: of some hundred of a million, two would meet now and then."""
    number = uuid4().int % 2_000_000_000 + 1000
    return Bench(redis_as, database("skeldir_ledger"), Partition(number), uuid4(), (uuid4(), uuid4()))


# Every kind of event, and each table with a row: hours and months, both users, all ends, orders.
FULL: tuple[Op, ...] = (
    ("submit", 0, 3), ("succeed", 0, 8), ("submit", 0, 2), ("succeed", 0, 5), ("submit", 1, 1), ("fail", 0, 0),
    ("submit", 0, 3), ("cached", 0, 0), ("submit", 0, 1), ("fail", 0, 2), ("resolve", 0, 6), ("submit", 1, 4),
    ("stop", 0, 0), ("submit", 1, 2), ("expire", 0, 0), ("succeed", 0, 40), ("submit", 1, 4), ("order", 0, 0),
    ("order", 0, 10), ("order", 0, 5), ("submit", 0, 1), ("wait", 1, 0), ("order", 0, 15), ("submit", 0, 1),
    ("fail", 0, 2), ("submit", 1, 1), ("order", 0, 2), ("order", 0, 20),
)  # fmt: skip
assert {name for name, _, _ in FULL} == set(NAMES)


async def snapshot(connection: Any, tenant: UUID) -> dict[str, list[Any]]:
    """Every row of the tenant in every projection, comparable."""
    found = {}
    keys = {table.name: tuple(table.key) for table in TABLES}
    keys |= {rollup.name: rollup.key for rollup in ROLLUPS if "tenant_id" in rollup.key}
    for name, key in keys.items():
        rows = await connection.fetch(f"SELECT * FROM {name} WHERE tenant_id = $1", tenant)
        found[name] = sorted((dict(row) for row in rows), key=lambda row: [str(row[part]) for part in key])
    return found
