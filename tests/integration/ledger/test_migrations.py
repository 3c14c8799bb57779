"""Migrations, up and down, as the owner role, on a database of their own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
from alembic.util import CommandError

from services.ledger import migrate, rollups
from skeldir.embedded import EmbeddedPostgres
from skeldir.server_roles import ROLES_SQL

OURS = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'S') ORDER BY 1
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
    """A month's table as a month: which one it is is told by the clock, and may be another at the next look."""
    with psycopg.connect(url) as connection:
        return [re.sub(r"_\d{4}_\d{2}$", "_month", row[0]) for row in connection.execute(OURS.encode())]


def test_up_down_and_up_again(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    first = relations(empty_url)
    assert "events" in first and first.count("events_month") == 2
    migrate.upgrade(empty_url)
    assert relations(empty_url) == first
    migrate.downgrade(empty_url, "base")
    assert relations(empty_url) == ["alembic_version"]
    migrate.upgrade(empty_url)
    assert relations(empty_url) == first


CALLS = """
SET ROLE skeldir_ledger;
INSERT INTO llm_api_calls (
  id, tenant_id, user_id, endpoint, request_id, task_type, provider, model, created_at, updated_at, status,
  end_cost_cents, latency_ms, end_attempted)
SELECT gen_random_uuid(), lpad(to_hex(1 + n % 2), 32, '0')::uuid, lpad(to_hex(10 + n % 4), 32, '0')::uuid, 'e', n::text,
  'route', 'stub', 'model', '2026-11-23 10:00Z'::timestamptz + n * interval '70 min', now(),
  (ARRAY['success', 'blocked', 'failed', 'pending'])[1 + n % 4], n, n * 10, n % 4 IN (0, 2)
FROM generate_series(1, 300) AS n
"""


async def test_sums_are_there_after_a_way_down_and_up_again(empty_url: str) -> None:
    """What a migration fills in is what the triggers had kept."""

    async def different() -> list[rollups.Found]:
        connection = await asyncpg.connect(empty_url)
        try:
            await connection.execute("SET ROLE skeldir_ledger")
            assert await connection.fetchval("SELECT count(*) FROM call_quarters_of_all") > 0
            return await rollups.differences(connection)
        finally:
            await connection.close()

    await asyncio.to_thread(migrate.upgrade, empty_url)
    with psycopg.connect(empty_url, autocommit=True) as owner:
        owner.execute(CALLS.encode())
    assert await different() == []
    with psycopg.connect(empty_url) as owner:  # what the release before reads, while it is replaced
        owner.execute(b"SET ROLE skeldir_ledger")
        by_users = "SELECT span_start, status, sum(calls), sum(cost_cents) FROM call_sums_of_users WHERE span = 'hour'"
        by_hour = owner.execute(f"{by_users} GROUP BY 1, 2 ORDER BY 1, 2".encode()).fetchall()
        for name in ("call_hours_of_tenants", "call_hours_of_all"):
            of_before = f"SELECT hour, status, sum(calls), sum(cost_cents) FROM {name} GROUP BY 1, 2 ORDER BY 1, 2"
            assert owner.execute(of_before.encode()).fetchall() == by_hour and len(by_hour) > 100
        under_way = b"SELECT hour = date_trunc('hour', quarter) AND hour <> quarter FROM calls_under_way"
        assert {one for (one,) in owner.execute(under_way).fetchall()} == {True, False}, "at any quarter, by its hour"
    await asyncio.to_thread(migrate.downgrade, empty_url, "0011")
    with psycopg.connect(empty_url) as owner:
        owner.execute(b"SET ROLE skeldir_ledger")
        hours = owner.execute(b"SELECT sum(calls) FROM call_sums_of_tenants WHERE span = 'hour'").fetchone()
        assert hours == owner.execute(b"SELECT count(*) FROM llm_api_calls WHERE status <> 'pending'").fetchone()
    await asyncio.to_thread(migrate.upgrade, empty_url)
    assert await different() == []


def test_an_unknown_revision_is_refused(empty_url: str) -> None:
    with pytest.raises(CommandError, match="nowhere"):
        migrate.downgrade(empty_url, "nowhere")


ROWS = "SELECT seq, id, time, body, tenant_id, chain_no FROM events ORDER BY seq"
AS_WRITTEN = "INSERT INTO events (id, partition, stream, entry_id, type, version, time, subject, body) VALUES"


def test_events_move_into_their_months_and_back(empty_url: str, postgres: EmbeddedPostgres) -> None:
    """With their numbers, which go on from there."""
    migrate.upgrade(empty_url, "0011")
    superuser = on(postgres.url("postgres"), "migrations_only")
    times = ("2024-02-29 23:59:59.999999+00", "2024-03-01 00:00+00", "1970-01-01 00:00+00", "2024-02-01 00:00+00")
    with psycopg.connect(superuser) as connection:
        for number, at in enumerate(times):
            values = "(gen_random_uuid(), 1, 's', %s, 't', 1, %s, 's', '{}')"
            connection.execute(f"{AS_WRITTEN} {values}".encode(), (f"1-{number}", at))
        before = connection.execute(ROWS.encode()).fetchall()
    migrate.upgrade(empty_url, "0012")
    with psycopg.connect(superuser) as connection:
        assert connection.execute(ROWS.encode()).fetchall() == before
        tables = connection.execute(b"SELECT tableoid::regclass::text FROM events ORDER BY seq").fetchall()
        named = ["events_2024_02", "events_2024_03", "events_1970_01", "events_2024_02"]
        assert [one for (one,) in tables] == named
        connection.execute(f"{AS_WRITTEN} (gen_random_uuid(), 1, 's', '2-0', 't', 1, '2024-03-05', 's', '')".encode())
        assert connection.execute(b"SELECT max(seq) FROM events").fetchone() == (5,)
    migrate.downgrade(empty_url, "0011")
    with psycopg.connect(superuser) as connection:
        assert connection.execute(ROWS.encode()).fetchall()[:4] == before
        connection.execute(f"{AS_WRITTEN} (gen_random_uuid(), 1, 's', '3-0', 't', 1, '2024-03-05', 's', '')".encode())
        assert connection.execute(b"SELECT max(seq) FROM events").fetchone() == (6,)
