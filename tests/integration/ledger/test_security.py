"""Isolation: every table and view that the catalogue knows, in the roles of production."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.ledger import books, migrate, sessions
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, Bench

RUNTIME_ROLES = ("skeldir_ledger", "app_user", "app_ro", "app_rw", "skeldir_auditor", "skeldir_operator")
UNPROTECTED = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT (relrowsecurity AND relforcerowsecurity)
"""
VIEWS_WITHOUT_INVOKER = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND (relkind = 'm' OR relkind = 'v'
AND NOT coalesce(reloptions::text[] @> ARRAY['security_invoker=true'], false))
"""
POLICIES_WITHOUT_ROLE = "SELECT tablename, policyname FROM pg_policies WHERE roles = '{public}'"
RELATIONS = """
SELECT c.relname AS name, EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')
  AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'user_id') AS of_user
FROM pg_class AS c
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition ORDER BY 1
"""
PARTITIONS = "SELECT inhrelid::regclass::text AS relname FROM pg_inherits WHERE inhparent = 'events'::regclass"


async def fill(bench: Bench, ledger: Any) -> None:
    """A row of the bench's first user in every table, and of the second in many."""
    history = bench.history(FULL)
    waits = history.task(history.owners[0])
    history.entries.append((history.partition.tasks, f"{history.now_ms}-{history.serial + 1}", waits))
    first = history.orders
    history.order(
        type="key.created", key_id=f"key-{uuid4().hex[:8]}", secret_sha256="0" * 64, tenant_id=str(bench.tenant),
        user_id=str(bench.users[0]), role="producer",
    )  # fmt: skip
    scope = {"tenant_id": str(bench.tenant), "user_id": str(bench.users[0])}
    history.order(type="kill_switch.engaged", scope=scope, reason="stop")
    history.order(type="limits.set", scope=scope, hourly_cents=1)
    history.order(type="quota.set", scope=scope, window="day", calls=100)
    budget = {"model": "*", "to": "stub:small", "percent": 80}
    history.order(type="downgrade.set", scope=scope, **budget)
    history.order(type="bounds.set", scope={**scope, "task_type": "route"} | {"user_id": None}, max_tool_calls=3)
    assert first is history.orders
    await books.commit(ledger, {}, {}, history.records() + history.control_records())


@pytest.fixture
async def relations(bench: Bench, as_ledger: Any, as_superuser: Any) -> list[asyncpg.Record]:
    """Every table and view, with rows of two users in them."""
    await fill(bench, as_ledger)
    rows: list[asyncpg.Record] = await as_superuser.fetch(RELATIONS)
    # Alembic's own, which nobody but the owner and the ledger may even ask.
    rows = [row for row in rows if row["name"] != "alembic_version"]
    assert len(rows) > 20
    return rows


async def count(connection: Any, name: str, tenant: UUID | None, *users: UUID, role: str | None = None) -> int:
    async with sessions.reading(connection, role, tenant, users):
        return int(await connection.fetchval(f"SELECT count(*) FROM {name}"))


async def test_the_right_pair_sees_its_rows(bench: Bench, as_user: Any, relations: list[Any]) -> None:
    blind = {row["name"] for row in relations if not await count(as_user, row["name"], bench.tenant, bench.users[0])}
    internal = {"checkpoints", "dead_letters", "read_audit", "skipped_entries"}
    internal |= {"webhook_messages", "webhook_gaps", "webhook_ends", "event_chains", "event_seals", "event_archives"}
    internal.add("data_keys")  # nothing is encrypted here: test_keyring.py looks at them
    sums = {"call_sums_of_tenants", "call_quarters_of_tenants", "call_latencies_of_tenants", "call_totals_of_tenants"}
    sums |= {"call_quarters_of_all", "call_sums_of_all", "call_latencies_of_all"}
    sums |= {"call_hours_of_tenants", "call_hours_of_all"}  # views of two of them
    assert blind == {*internal, *sums, "tenant_budget_state", "task_bounds"}


async def test_a_wrong_user_a_wrong_tenant_and_nobody_see_nothing(
    bench: Bench, as_user: Any, relations: list[Any]
) -> None:
    for row in relations:
        assert await count(as_user, row["name"], bench.tenant, uuid4()) == 0, row["name"]
        assert await count(as_user, row["name"], uuid4(), bench.users[0]) == 0, row["name"]
        assert await count(as_user, row["name"], bench.tenant) == 0, row["name"]
        assert await count(as_user, row["name"], None, bench.users[0]) == 0, row["name"]
        assert await count(as_user, row["name"], None) == 0, row["name"]


async def test_without_any_setting_nobody_sees_anything(postgres: EmbeddedPostgres, relations: list[Any]) -> None:
    """A fresh session, in which the settings were never made."""
    connection = await asyncpg.connect(postgres.url("app_user"))
    try:
        for row in relations:
            assert await connection.fetchval(f"SELECT count(*) FROM {row['name']}") == 0, row["name"]
    finally:
        await connection.close()


async def test_rows_are_only_of_the_pair(bench: Bench, as_user: Any, relations: list[Any]) -> None:
    for row in relations:
        if row["of_user"]:
            async with sessions.reading(as_user, None, bench.tenant, [bench.users[0]]):
                owners = await as_user.fetch(f"SELECT DISTINCT tenant_id, user_id FROM {row['name']}")
            assert {tuple(one) for one in owners} <= {(bench.tenant, bench.users[0])}, row["name"]


async def test_several_users_of_one_tenant_are_one_dashboard(bench: Bench, as_user: Any, relations: list[Any]) -> None:
    both = await count(as_user, "llm_api_calls", bench.tenant, *bench.users)
    each = [await count(as_user, "llm_api_calls", bench.tenant, user) for user in bench.users]
    assert both == sum(each)
    assert all(each)


async def test_every_table_forces_row_level_security(as_superuser: Any) -> None:
    assert await as_superuser.fetch(UNPROTECTED) == []
    assert await as_superuser.fetch(VIEWS_WITHOUT_INVOKER) == []
    assert await as_superuser.fetch(POLICIES_WITHOUT_ROLE) == []


async def test_a_new_table_or_view_without_it_would_be_found(as_superuser: Any) -> None:
    """The checks of this file, checked."""
    transaction = as_superuser.transaction()
    await transaction.start()
    try:
        await as_superuser.execute("CREATE TABLE forgotten (id integer); CREATE VIEW leaky AS SELECT * FROM forgotten")
        await as_superuser.execute("CREATE POLICY for_all ON forgotten USING (true)")
        assert [row["relname"] for row in await as_superuser.fetch(UNPROTECTED)] == ["forgotten"]
        assert [row["relname"] for row in await as_superuser.fetch(VIEWS_WITHOUT_INVOKER)] == ["leaky"]
        assert [row["policyname"] for row in await as_superuser.fetch(POLICIES_WITHOUT_ROLE)] == ["for_all"]
    finally:
        await transaction.rollback()


async def test_tenant_comes_first_in_every_index(as_superuser: Any) -> None:
    """Where a table has the column; but for a primary key that is one id, and what operators search in all tenants."""
    rows = await as_superuser.fetch(
        "SELECT i.indexrelid::regclass::text AS name FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid "
        "JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' "
        "WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND i.indkey[0] <> a.attnum "
        "AND NOT (i.indisprimary AND i.indnatts = 1)"
    )
    across = {f"llm_api_calls_by_{name}" for name in ("time", "request_id", "correlation")}
    across |= {"call_totals_by_month", "events_by_seq", "events_pkey", "shutoffs_that_hold"}
    across |= {"hours_by_use", "months_by_use", "tenant_windows_by_use"}
    assert {row["name"] for row in rows} == across


@pytest.mark.parametrize("role", [*RUNTIME_ROLES, "skeldir_owner"])
async def test_nobody_goes_past_the_policies_by_a_months_table(
    role: str, bench: Bench, as_ledger: Any, as_superuser: Any
) -> None:
    await books.commit(as_ledger, {}, {}, bench.history(FULL).records())
    names = [row["relname"] for row in await as_superuser.fetch(PARTITIONS)]
    assert names
    for name in names:
        transaction = as_superuser.transaction()
        await transaction.start()
        try:
            await as_superuser.execute(f"SET LOCAL ROLE {role}")
            if role == "skeldir_owner":  # whom no grant holds
                assert await as_superuser.fetchval(f"SELECT count(*) FROM {name}") == 0, name
            else:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
                    await as_superuser.execute(f"SELECT FROM {name}")
        finally:
            await transaction.rollback()


async def test_no_runtime_role_is_more_than_it_says(as_superuser: Any) -> None:
    rows = await as_superuser.fetch(
        "SELECT rolname, rolcanlogin, "
        "rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication AS too_much, "
        "EXISTS (SELECT FROM pg_class WHERE relowner = r.oid) AS owns FROM pg_roles AS r WHERE rolname = ANY ($1)",
        list(RUNTIME_ROLES),
    )
    assert {row["rolname"]: row["rolcanlogin"] for row in rows} == {
        name: name in ("skeldir_ledger", "app_user") for name in RUNTIME_ROLES
    }
    assert not [row["rolname"] for row in rows if row["too_much"] or row["owns"]]


@pytest.mark.parametrize("role", RUNTIME_ROLES)
async def test_only_the_owner_archives(role: str, as_superuser: Any) -> None:
    """No role of a service empties a month, or says that it is in a file; nor may the owner say it twice."""
    month = await as_superuser.fetchval(f"SELECT min(relname) FROM ({PARTITIONS}) AS one")
    insert = "INSERT INTO event_archives SELECT (jsonb_populate_record(null::event_archives, '{}')).*"
    touch = "TRUNCATE {}", "DROP TABLE {}", "ALTER TABLE {} DISABLE TRIGGER append_only_whole"
    change = "UPDATE event_archives SET rows = 0", "DELETE FROM event_archives", "TRUNCATE event_archives"
    taken = (*(one.format(month) for one in touch), f"ALTER TABLE events DETACH PARTITION {month}")
    for statement in (*taken, insert, *change):
        transaction = as_superuser.transaction()
        await transaction.start()
        try:
            await as_superuser.execute(f"SET LOCAL ROLE {role}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await as_superuser.execute(statement)
        finally:
            await transaction.rollback()


@pytest.mark.parametrize(
    "statement", ["UPDATE event_archives SET rows = 0", "DELETE FROM event_archives", "TRUNCATE event_archives"]
)
async def test_what_is_archived_is_recorded_for_good(statement: str, as_superuser: Any) -> None:
    transaction = as_superuser.transaction()
    await transaction.start()
    try:
        await as_superuser.execute(
            "INSERT INTO event_archives VALUES ('f', '2025-03-01', 0, 1, 1, 1, '1-0', '1-0', 0, 1, '', now())"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await as_superuser.execute(statement)
    finally:
        await transaction.rollback()


async def test_the_owner_is_held_by_row_level_security_too(postgres: EmbeddedPostgres, relations: Any) -> None:
    owner = await asyncpg.connect(postgres.url("skeldir_owner"))
    try:
        assert await owner.fetchval("SELECT count(*) FROM events") == 0
    finally:
        await owner.close()


@pytest.mark.parametrize("statement", ["UPDATE {} SET body = ''", "DELETE FROM {}", "TRUNCATE {}"])
async def test_events_are_append_only(statement: str, as_ledger: Any, as_superuser: Any, relations: list[Any]) -> None:
    """By grant for the ledger; by trigger even for those whom no grant holds: as a whole, and month by month."""
    filled = await as_superuser.fetchval("SELECT tableoid::regclass::text FROM events LIMIT 1")
    for table in ("events", filled):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
            await as_ledger.execute(statement.format(table))
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await as_superuser.execute(statement.format(table))


@pytest.mark.parametrize("role", ["app_user", "app_rw", "app_ro", "skeldir_operator", "skeldir_auditor"])
async def test_readers_cannot_write(role: str, as_superuser: Any) -> None:
    writes = "INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER"
    rows = await as_superuser.fetch(
        "SELECT c.relname FROM pg_class AS c WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'p', 'v') AND has_table_privilege($1, c.oid, $2)",
        role,
        writes,
    )
    assert rows == []


async def test_app_user_cannot_take_another_role(as_user: Any) -> None:
    for role in ("skeldir_ledger", "skeldir_operator", "skeldir_auditor", "skeldir_owner"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_user.execute(f"SET ROLE {role}")


async def test_settings_end_with_their_transaction(bench: Bench, as_ledger: Any, relations: Any) -> None:
    """So the next borrower of a pooled connection finds none, also behind a pooler that resets nothing."""
    assert await count(as_ledger, "llm_api_calls", bench.tenant, bench.users[0], role=sessions.USER) > 0
    assert not await as_ledger.fetchval("SELECT current_setting('app.current_tenant_id', true)")
    assert not await as_ledger.fetchval("SELECT current_setting('app.current_user_id', true)")
    assert await as_ledger.fetchval("SELECT current_user") == "skeldir_ledger"


async def test_an_auditor_sees_one_tenant_and_an_operator_all(bench: Bench, as_ledger: Any, relations: Any) -> None:
    other = Bench(bench.redis_as, bench.database_url, bench.partition, uuid4(), (uuid4(), uuid4()))
    await fill(other, as_ledger)
    for role, tenant, expected in (
        (sessions.AUDITOR, bench.tenant, {bench.tenant}),
        (sessions.AUDITOR, None, set()),
        (sessions.OPERATOR, None, {bench.tenant, other.tenant}),
    ):
        async with sessions.reading(as_ledger, role, tenant):
            rows = await as_ledger.fetch(
                "SELECT DISTINCT tenant_id FROM llm_api_calls WHERE tenant_id = ANY ($1)", [bench.tenant, other.tenant]
            )
        assert {row["tenant_id"] for row in rows} == expected
        for name in ("call_quarters_of_all", "call_sums_of_all", "call_latencies_of_all"):
            assert bool(await count(as_ledger, name, tenant, role=role)) is (role == sessions.OPERATOR), name


async def test_a_reader_may_ask_for_the_schema_version(as_user: Any) -> None:
    assert await as_user.fetchval("SELECT schema_version()") == migrate.newest()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_user.fetchval("SELECT version_num FROM alembic_version")


async def test_policies_are_evaluated_once_a_query(as_user: Any) -> None:
    plan = "\n".join(row[0] for row in await as_user.fetch("EXPLAIN SELECT * FROM llm_api_calls"))
    assert "InitPlan" in plan
    assert "current_setting" not in plan.split("InitPlan")[0]
