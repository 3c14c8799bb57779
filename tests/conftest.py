"""Real servers for every test: started once, used in the roles that the services have in production."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
import structlog
from redis.asyncio import Redis

from services.ledger import migrate
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.collector import Collector
from tests.stack import Stack

# By itself structlog draws a traceback with all its locals, which takes longer than what the test does.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(bool_as_flag=False),
    ]
)

# How long an example takes says more about what else the machine does.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

RedisAs = Callable[[str], Redis]
NewFolder = Callable[[], Path]


@pytest.fixture(scope="session")
def new_folder() -> Iterator[NewFolder]:
    """Makes folders for servers. Not pytest's own: a second run takes those away from a server that is not root."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="skeldir-test-")))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey(new_folder: NewFolder) -> Iterator[EmbeddedValkey]:
    """A log server; partitions keep tests apart."""
    server = EmbeddedValkey(new_folder())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres(new_folder: NewFolder) -> Iterator[EmbeddedPostgres]:
    """A migrated database; tenants keep tests apart."""
    server = EmbeddedPostgres(new_folder())
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET fsync = off")  # nobody pulls this plug, and databases come and go
        admin.execute("SELECT pg_reload_conf()")
    migrate.upgrade(server.url("skeldir_owner"))
    yield server
    server.stop()


@pytest.fixture
async def redis_as(valkey: EmbeddedValkey) -> AsyncIterator[RedisAs]:
    """A connection in one of the roles of `deploy/redis/users.acl`."""
    opened: list[Redis] = []

    def open_as(role: str) -> Redis:
        opened.append(connect(valkey.url(role), client_name=f"test-{role}"))
        return opened[-1]

    yield open_as
    await asyncio.gather(*(one.aclose() for one in opened))


@pytest.fixture(scope="session")
def stack(new_folder: NewFolder) -> Iterator[Stack]:
    """`skeldir up`, as a person starts it."""
    with Stack(new_folder()) as running:
        yield running


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the traces of `impatient_stack` go."""
    with Collector() as listening:
        yield listening


@pytest.fixture(scope="session")
def impatient_stack(new_folder: NewFolder, collector: Collector) -> Iterator[Stack]:
    """A `skeldir up` that gives up soon: on a provider, on a dead executor, on an open breaker; on the stub, too."""
    soon = {"PROVIDER_TIMEOUT_MS": "1500", "EXECUTOR_CLAIM_IDLE_MS": "600", "BREAKER_OPEN_SECONDS": "0.5"}
    soon |= {"PROVIDER_BREAKER_STUB": "true", "PROVIDER_BREAKER_CONSECUTIVE_FAILURES": "6"}
    soon |= {"PROVIDER_BREAKER_OPEN_SECONDS": "6", "PROVIDER_BREAKER_PROBES": "1"}
    soon |= {"WEBHOOKS_ALLOW_PRIVATE": "true"}  # to receivers of the tests
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with Stack(new_folder(), {f"SKELDIR_{name}": value for name, value in soon.items()} | traced) as running:
        yield running


@pytest.fixture
def new_stack(new_folder: NewFolder) -> Iterator[Callable[..., Stack]]:
    """A `skeldir up` of the test's own, with its own settings."""
    opened: list[Stack] = []

    def start(**environment: str) -> Stack:
        opened.append(Stack(new_folder(), environment).__enter__())
        return opened[-1]

    yield start
    for one in opened:
        one.__exit__(None, None, None)
