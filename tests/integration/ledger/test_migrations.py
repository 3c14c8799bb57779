"""Migrations, up and down, as the owner role, on a database of their own."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from alembic.util import CommandError

from services.ledger import migrate
from skeldir.embedded import EmbeddedPostgres
from skeldir.embedded.postgres import ROLES_SQL

OURS = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S') ORDER BY 1
"""


def on(url: str, database: str) -> str:
    """The same server and role, another database."""
    return f"{url.rpartition('/')[0]}/{database}"


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with the roles' rights and nothing in it."""
    name = "migrations_only"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        admin.execute(f"CREATE DATABASE {name}".encode())
    with psycopg.connect(on(postgres.url("postgres"), name), autocommit=True) as inside:
        inside.execute(ROLES_SQL.read_text().encode())
        inside.execute(ROLES_SQL.read_text().encode())  # again changes nothing
    yield on(postgres.url("skeldir_owner"), name)
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def relations(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(OURS.encode())]


def test_up_down_and_up_again(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    first = relations(empty_url)
    assert "events" in first
    migrate.upgrade(empty_url)
    assert relations(empty_url) == first
    migrate.downgrade(empty_url, "base")
    assert relations(empty_url) == ["alembic_version"]
    migrate.upgrade(empty_url)
    assert relations(empty_url) == first


def test_an_unknown_revision_is_refused(empty_url: str) -> None:
    with pytest.raises(CommandError, match="nowhere"):
        migrate.downgrade(empty_url, "nowhere")
