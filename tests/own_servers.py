"""Servers that are somebody's own and not Skeldir's: the embedded ones, run apart; others' programs; or containers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import docker
import psycopg
import redis
from docker.errors import DockerException
from psycopg.sql import SQL, Identifier, Literal
from testcontainers.core.container import DockerContainer

from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
from skeldir.server_roles import LOG_ROLES, LOGIN_ROLES, ROLES_SQL, users_acl
from tests.stack import eventually

Url = Callable[[str], str]
"""Of a role."""
PULL_AND_START_S = 300.0
ENGINE_TIMEOUT_S = 5
PROGRAMS = ("REDIS_SERVER", "POSTGRES_BIN")


@dataclass(frozen=True)
class OwnServers:
    """A log and books, with the roles of `deploy/`, and the URLs by which they are reached."""

    log: Url
    books: Url

    @property
    def environment(self) -> dict[str, str]:
        """What somebody who runs them would set for `skeldir up`."""
        return {
            "SKELDIR_REDIS_URL": self.log("admin"),
            "SKELDIR_DATABASE_URL": self.books("app_user"),
            "SKELDIR_LEDGER_DATABASE_URL": self.books("skeldir_ledger"),
            "SKELDIR_ADMIN_DATABASE_URL": self.books("skeldir_owner"),
            "SUPERUSER": self.books("postgres"),
        }


@contextmanager
def embedded(folder: Path) -> Iterator[OwnServers]:
    """Those of the wheels."""
    log, books = EmbeddedValkey(folder), EmbeddedPostgres(folder)
    with ExitStack() as ends:
        log.start()
        ends.callback(log.stop)
        books.start()
        ends.callback(books.stop)
        yield OwnServers(log.url, books.url)


@dataclass(frozen=True)
class Programs:
    """What a machine has: `REDIS_SERVER` names a program, `POSTGRES_BIN` a folder of programs; one is enough."""

    redis_server: Path | None
    postgres_bin: Path | None

    def __str__(self) -> str:
        return ", ".join(str(one) for one in (self.redis_server, self.postgres_bin) if one)


def named_programs() -> list[Programs]:
    """Those that the environment names."""
    redis_server, postgres_bin = (Path(os.environ[name]) if name in os.environ else None for name in PROGRAMS)
    return [Programs(redis_server, postgres_bin)] if redis_server or postgres_bin else []


@contextmanager
def installed(programs: Programs, folder: Path) -> Iterator[OwnServers]:
    """These, configured as the embedded ones are, in whose place they stand."""
    with ExitStack() as places:
        if programs.redis_server:
            found = patch(f"{EmbeddedValkey.__module__}.get_binary_path", return_value=programs.redis_server)
            places.enter_context(found)
        if programs.postgres_bin:
            places.enter_context(patch(f"{EmbeddedPostgres.__module__}.BIN", programs.postgres_bin))
        with embedded(folder) as servers:
            yield servers


@dataclass(frozen=True)
class Images:
    """What a set of containers is made of."""

    log: str
    server: str
    books: str

    def __str__(self) -> str:
        return f"{self.log.rpartition('/')[2]}, {self.books}"


# The ends of what is supported, and what is current between them.
STOCK = (
    Images("redis:8", "redis-server", "postgres:18"),
    Images("redis:7.2", "redis-server", "postgres:15"),
    Images("valkey/valkey:9", "valkey-server", "postgres:17"),
    Images("valkey/valkey:8", "valkey-server", "postgres:16"),
)


@cache
def no_engine() -> str | None:
    """Why there can be no containers here; None where there can."""
    try:
        client = docker.from_env(timeout=ENGINE_TIMEOUT_S)
        client.ping()
    except DockerException as error:
        return f"no Docker engine here, so stock images were not tried ({type(error).__name__})"
    client.close()
    return None


@contextmanager
def containers(images: Images) -> Iterator[OwnServers]:
    """Stock images, configured as docs/deployment.md says."""
    with ExitStack() as ends:
        yield OwnServers(_log(images, ends), _books(images, ends))


def _log(images: Images, ends: ExitStack) -> Url:
    passwords = {role: secrets.token_hex(16) for role in LOG_ROLES}
    command = [images.server, "--aclfile", "/skeldir.acl", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
    container = DockerContainer(images.log, ports=[6379]).with_command(command)
    # Readable to everybody in there: the server is not root any more when it reads it.
    ends.enter_context(container.with_copy_into_container(users_acl(passwords).encode(), "/skeldir.acl", 0o644))
    at = f"{container.get_container_host_ip()}:{container.get_exposed_port(6379)}"

    def url(role: str) -> str:
        return f"redis://{role}:{passwords[role]}@{at}/0"

    def answers() -> bool:
        try:
            with redis.Redis.from_url(url("admin"), socket_timeout=2) as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False

    eventually(answers, f"{images.log} answers", PULL_AND_START_S)
    return url


def _books(images: Images, ends: ExitStack) -> Url:
    passwords = {role: secrets.token_hex(16) for role in ("postgres", *LOGIN_ROLES)}
    environment = {"POSTGRES_PASSWORD": passwords["postgres"], "POSTGRES_DB": "skeldir"}
    container = ends.enter_context(DockerContainer(images.books, env=environment, ports=[5432]))
    at = f"{container.get_container_host_ip()}:{container.get_exposed_port(5432)}"

    def url(role: str) -> str:
        return f"postgresql://{role}:{passwords[role]}@{at}/skeldir"

    def has_roles() -> bool:
        """While it makes itself ready it answers on no port."""
        try:
            with psycopg.connect(url("postgres"), connect_timeout=2, autocommit=True) as superuser:
                superuser.execute(ROLES_SQL.read_text().encode())
                for role in LOGIN_ROLES:
                    change = SQL("ALTER ROLE {} PASSWORD {}")
                    superuser.execute(change.format(Identifier(role), Literal(passwords[role])))
                return True
        except psycopg.OperationalError:
            return False

    eventually(has_roles, f"{images.books} answers", PULL_AND_START_S)
    return url
