"""Windows of all tenants are read in the order of their indexes: a page takes a page's rows, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from services.ledger import lists, sessions
from services.ledger.keys import View
from services.ledger.lists import Listing
from services.ledger.looking import looking
from services.ledger.spending import SPEND_NOW, SPEND_OF_ALL
from shared.control_state import Key
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import own_database

TENANTS, LIMIT = 1500, 20
TABLES = {"llm_hourly_shutoff_state", "llm_monthly_budget_state", "tenant_budget_state"}
OPERATOR = View(Key("k", UUID(int=0), None, "operator", None, "test", 0), sessions.OPERATOR, None, [])
# Of each tenant and a user the running hour and three before it, the running month and the last; and the next hour and
# month, for they may begin before the last test has asked. Two of three are equally far from their caps, so that only
# the ids order them.
FILL = f"""
CREATE TEMP TABLE made AS
SELECT lpad(to_hex(n), 32, '0')::uuid AS tenant_id, lpad(to_hex(n + 100000), 32, '0')::uuid AS user_id,
       CASE WHEN n % 3 = 0 THEN n % 97 ELSE 0 END AS spent
FROM generate_series(1, {TENANTS}) AS n;
INSERT INTO llm_hourly_shutoff_state (
  tenant_id, user_id, hour_start, balance_version, threshold_cents, total_cost_cents, total_calls, updated_at)
SELECT tenant_id, user_id, date_trunc('hour', now(), 'UTC') - back * interval '1 hour', 1, 100, spent, 1, now()
FROM made, generate_series(-1, 3) AS back;
INSERT INTO llm_monthly_budget_state (
  tenant_id, user_id, month, balance_version, cap_cents, spent_cents, total_calls, updated_at)
SELECT tenant_id, user_id, date_trunc('month', now() AT TIME ZONE 'UTC') - back * interval '1 month', 1, 100, spent, 1,
       now()
FROM made, generate_series(-1, 1) AS back;
INSERT INTO tenant_budget_state (
  tenant_id, budget_window, window_start, balance_version, cap_cents, spent_cents, total_calls, updated_at)
SELECT tenant_id, budget_window, start AT TIME ZONE 'UTC', 1, 100, spent, 1, now()
FROM made, unnest(ARRAY['hour', 'month']) AS budget_window, generate_series(0, 1) AS ahead,
     date_trunc(budget_window, now() AT TIME ZONE 'UTC') AS running,
     LATERAL (SELECT running + ahead * ('1 ' || budget_window)::interval AS start) AS windows
"""


@pytest.fixture(scope="module")
def full(postgres: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """A database with many tenants' windows."""

    async def fill(url: Callable[[str], str]) -> None:
        superuser = await asyncpg.connect(url("postgres"))
        await superuser.execute(FILL)
        await superuser.execute("VACUUM ANALYZE")
        await superuser.close()

    with own_database(postgres, "windows") as url:
        asyncio.run(fill(url))
        yield url


@pytest.fixture
async def pool(full: Callable[[str], str]) -> AsyncIterator[Any]:
    async with sessions.pool(full("skeldir_ledger"), name="reads", size=1) as pool:
        yield pool


def pages() -> dict[str, tuple[Listing, dict[str, Any]]]:
    """What an operator asks of all tenants."""
    now = datetime.now(UTC)
    two_hours = {"since": now - timedelta(hours=3), "until": now - timedelta(hours=1)}
    return {
        "open windows": (SPEND_NOW, {}),
        "since 40 days ago": (SPEND_OF_ALL, {"since": now - timedelta(days=40)}),
        "two hours": (SPEND_OF_ALL, two_hours),
        "months": (SPEND_OF_ALL, {"window": "month", "until": now}),
    }


async def read_too_much(connection: Any, listing: Listing, wanted: dict[str, Any], before: str | None) -> list[str]:
    """Where a page's plan reads a table of windows otherwise than a page of rows by an index, in order."""
    sql, values = lists.question(OPERATOR, listing, LIMIT, before, wanted)
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", *values)
    found = []
    for node in nodes(orjson.loads(text)[0]["Plan"]):
        rows = node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
        if node.get("Relation Name") in TABLES and (node["Node Type"] == "Seq Scan" or rows > LIMIT + 1):
            found.append(f"{node['Node Type']} of {node['Relation Name']}: {rows:.0f} rows")
    return found


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize("name", pages())
async def test_a_page_reads_a_pages_rows(name: str, pool: Any) -> None:
    """The first, and those that go on within windows of which many are equally far."""
    listing, wanted = pages()[name]
    async with looking(pool, OPERATOR, None) as connection:
        before: str | None = None
        for _ in range(3):
            assert await read_too_much(connection, listing, wanted, before) == []
            page = await lists.read(connection, OPERATOR, listing, limit=LIMIT, before=before, **wanted)
            assert len(page.rows) == LIMIT
            before = page.next


AS_BEFORE = "CREATE INDEX ON llm_hourly_shutoff_state ((hour_start AT TIME ZONE 'UTC'), used_percent DESC)"


@pytest.mark.parametrize(
    ("index", "instead"),
    [("hours_by_use", ""), ("months_by_use", ""), ("tenant_windows_by_use", ""), ("hours_by_use", AS_BEFORE)],
)
async def test_without_an_index_it_would_be_seen(index: str, instead: str, full: Callable[[str], str]) -> None:
    """So the test above holds each of them. One that leaves equally far windows in any order is as good as none."""
    superuser = await asyncpg.connect(full("postgres"))
    transaction = superuser.transaction()
    await transaction.start()
    await superuser.execute(f"DROP INDEX {index}; {instead}")
    await sessions.look_as(superuser, sessions.OPERATOR, None)
    listing, wanted = pages()["open windows"]
    assert await read_too_much(superuser, listing, wanted, None) != []
    await transaction.rollback()
    await superuser.close()
