"""Real servers for every test: started once, used in the roles that the services have in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.ledger import migrate
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.stack import Stack

RedisAs = Callable[[str], Redis]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """A log server; partitions keep tests apart."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A migrated database; tenants keep tests apart."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    server.start()
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
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`skeldir up`, as a person starts it."""
    with Stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def new_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """A `skeldir up` of the test's own, with its own settings."""
    opened: list[Stack] = []

    def start(**environment: str) -> Stack:
        opened.append(Stack(tmp_path / f"stack-{len(opened)}", environment).__enter__())
        return opened[-1]

    yield start
    for one in opened:
        one.__exit__(None, None, None)
