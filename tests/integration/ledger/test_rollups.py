"""The rollups of calls: as exact as the calls whatever comes late, and read without a scan of the calls."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest

from services.ledger import books, rollups, sessions
from services.ledger import series as series_module
from services.ledger.dashboards import BY_NAME
from services.ledger.keys import Refused, View
from services.ledger.looking import narrowing
from services.ledger.projections.rows import fold
from services.ledger.series import OF_CALLS, SUMS_OF_ALL, SUMS_OF_TENANTS, SUMS_OF_USERS, query_of, series, single_hours
from services.ledger.upsert import write
from shared.control_state import Key
from shared.events.envelope import at
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, Bench

LATENCY = "UPDATE llm_api_calls SET latency_ms = latency_ms + 40 WHERE tenant_id = $1 AND provider_attempted"
CHANGES = {
    "call_sums_of_users": "UPDATE call_sums_of_users SET cost_cents = cost_cents + 1 WHERE tenant_id = $1",
    "call_sums_of_tenants": "UPDATE call_sums_of_tenants SET cached = cached + 1 WHERE tenant_id = $1",
    "call_latencies_of_users": "DELETE FROM call_latencies_of_users WHERE tenant_id = $1",
    "call_latencies_of_tenants": "UPDATE call_latencies_of_tenants SET calls = calls - 1 WHERE tenant_id = $1",
    "calls_under_way": (
        "INSERT INTO calls_under_way SELECT tenant_id, user_id, now(), provider, model, task_type, 1, 0 "
        "FROM llm_api_calls WHERE tenant_id = $1 LIMIT 1"
    ),
    "call_quarters_of_tenants": "DELETE FROM call_quarters_of_tenants WHERE tenant_id = $1",
    "call_totals_of_tenants": "UPDATE call_totals_of_tenants SET cost_cents = cost_cents - 1 WHERE tenant_id = $1",
    "call_sums_of_all": "UPDATE call_sums_of_all SET calls = calls + 1 WHERE $1::uuid IS NOT NULL",
    "call_quarters_of_all": "UPDATE call_quarters_of_all SET latency_ms = latency_ms - 1 WHERE $1::uuid IS NOT NULL",
    "call_latencies_of_all": "DELETE FROM call_latencies_of_all WHERE $1::uuid IS NOT NULL",
}
OF_ALL = ("call_quarters_of_all", "call_sums_of_all", "call_latencies_of_all")
# What is summed up from others is wrong with them.
OF_TENANTS = ("call_sums_of_tenants", "call_quarters_of_tenants", "call_latencies_of_tenants", "call_totals_of_tenants")
LATER = {**dict.fromkeys(OF_TENANTS, OF_ALL), "call_sums_of_tenants": ("call_totals_of_tenants", *OF_ALL)}
LATER |= dict.fromkeys(("call_sums_of_users", "call_latencies_of_users"), (*OF_TENANTS, *OF_ALL))


async def wrong(connection: Any, bench: Bench) -> set[str]:
    """The rollups that have a wrong row of the tenant, or of all."""
    found = [subject for subject, _ in await rollups.differences(connection)]
    return {one.split()[0] for one in found if str(bench.tenant) in one or one.startswith(OF_ALL)}


async def test_rollups_follow_every_change_and_verify_finds_what_they_miss(bench: Bench, as_ledger: Any) -> None:
    history = bench.history(FULL)
    await books.commit(as_ledger, {}, {}, history.records())
    transaction = as_ledger.transaction()
    await transaction.start()
    assert await wrong(as_ledger, bench) == set()
    await as_ledger.execute(LATENCY, bench.tenant)  # every bucket but those of the same width changes
    assert await wrong(as_ledger, bench) == set()
    for name, change in CHANGES.items():
        point = as_ledger.transaction()
        await point.start()
        await as_ledger.execute(change, bench.tenant)
        found = await wrong(as_ledger, bench)
        assert found >= {name} and found <= {name, *LATER.get(name, ())}
        await point.rollback()
    await transaction.rollback()


async def left(connection: Any) -> int:
    """Rows that are still to be added."""
    counts = (f"(SELECT count(*) FROM {name} WHERE left_by <> 0)" for name in OF_ALL)
    return int(await connection.fetchval(f"SELECT {' + '.join(counts)}"))


async def test_writers_do_not_wait_for_each_other_at_the_sums_of_all(
    bench: Bench, as_ledger: Any, postgres: EmbeddedPostgres
) -> None:
    """Who comes while another writes leaves rows beside the sum; they count at once, and the next writer adds them."""
    others = Bench(bench.redis_as, bench.database_url, bench.partition, uuid4(), (uuid4(), uuid4()))
    # Without their events: histories are of one partition, whose chain has one writer.
    first, second = (fold(p for one in b.history(FULL[:8]).records() for p in one.patches) for b in (bench, others))
    async with sessions.pool(postgres.url("skeldir_ledger"), name="other", size=1) as pool, pool.acquire() as other:
        async with as_ledger.transaction():
            await write(as_ledger, first)
            async with asyncio.timeout(60):  # it would wait for ever
                await write(other, second)
            assert await left(other) > 0
            assert await wrong(other, others) == set()
        assert await wrong(other, others) == set()
        await as_ledger.execute(LATENCY, bench.tenant)
        assert await left(other) == 0
        assert await wrong(other, others) == set()


async def test_a_sum_of_nothing_is_no_row(bench: Bench, as_ledger: Any) -> None:
    await books.commit(as_ledger, {}, {}, bench.history(FULL[:8]).records())
    transaction = as_ledger.transaction()
    await transaction.start()
    seen = "SELECT count(*) FROM call_sums_of_all WHERE calls = 0 OR provider = 'elsewhere'"
    change = "UPDATE llm_api_calls SET provider = $2 WHERE tenant_id = $1"
    await as_ledger.execute(change, bench.tenant, "elsewhere")
    assert await as_ledger.fetchval(seen) > 0
    await as_ledger.execute(change, bench.tenant, "stub")
    assert await as_ledger.fetchval(seen) == 0
    assert (
        await as_ledger.fetchval("SELECT count(*) FROM call_totals_of_tenants WHERE success + blocked + failed = 0")
        == 0
    )
    assert await wrong(as_ledger, bench) == set()
    await rollups.sum_again(as_ledger)
    assert await wrong(as_ledger, bench) == set()
    await transaction.rollback()


ENDS = ("success", "blocked", "failed", "pending")
SERIES = {
    sessions.USER: SUMS_OF_USERS,
    sessions.AUDITOR: SUMS_OF_TENANTS,
    sessions.OPERATOR: SUMS_OF_ALL,
}


def view_of(role: str, bench: Bench) -> View:
    """Of one user, of the tenant, of all."""
    key = Key("k", bench.tenant, None, "operator", None, "test", 0)
    users = bench.users[:1] if role == sessions.USER else ()
    return View(key, role, None if role == sessions.OPERATOR else bench.tenant, users)


@pytest.mark.parametrize("role", SERIES)
async def test_a_look_scans_no_calls_and_asks_for_its_settings_once(role: str, bench: Bench, as_ledger: Any) -> None:
    await books.commit(as_ledger, {}, {}, bench.history(FULL).records())
    users = bench.users if role == sessions.USER else ()
    asked = (None if role == sessions.OPERATOR else bench.tenant, None, 3600, at(0), at(10**12))
    async with sessions.reading(as_ledger, role, bench.tenant, users):
        for sql, arguments in (
            (BY_NAME["cache_hit_rate"].sql, ()),
            (BY_NAME["provider_cost_latency"].sql, ()),
            (SERIES[role], asked),
        ):
            (plan,) = orjson.loads(await as_ledger.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments))
            nodes = list(_nodes(plan["Plan"]))
            assert "llm_api_calls" not in {node.get("Relation Name") for node in nodes}
            conditions = " ".join(str(node.get(name)) for node in nodes for name in ("Filter", "Index Cond"))
            assert "current_setting" not in conditions


@pytest.mark.parametrize("role", SERIES)
async def test_quarters_are_what_the_calls_of_that_time_give(
    role: str, bench: Bench, as_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With p95 while the calls are few enough to be read; a user's always are. Histories are hours long."""
    records = bench.history(FULL).records()
    await books.commit(as_ledger, {}, {}, records)
    view = view_of(role, bench)
    since = min(record.time for record in records) - timedelta(minutes=7)
    until = max(record.time for record in records) + timedelta(minutes=7)
    async with sessions.pool(bench.database_url, name="reads", size=1) as pool:
        found = await series(pool, view, since, until, "quarter")
        whole = (found[0]["time"], found[-1]["time"] + timedelta(minutes=15))
        async with sessions.reading(as_ledger, role, view.tenant_id, view.user_ids):
            calls = await as_ledger.fetch(OF_CALLS, *narrowing(view), 900, *whole)
        assert [row for row in found if any(row[end] for end in ENDS)] == [dict(row) for row in calls]

        monkeypatch.setattr(series_module, "MAX_LATENCIES", 0)
        many = await series(pool, view, since, until, "quarter")
    if view.user_ids:
        assert many == found
    else:
        assert many == [{**row, "p95_ms": None} for row in found] != found
        assert query_of(view, "quarter") == query_of(view, "day") != OF_CALLS


@pytest.mark.parametrize("role", SERIES)
async def test_a_chart_reads_so_many_calls_at_most_but_for_an_hour(
    role: str, bench: Bench, as_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many they are is asked of the sums, before."""
    records = bench.history(FULL).records()
    await books.commit(as_ledger, {}, {}, records)
    view = view_of(role, bench)
    first = min(record.time for record in records)
    hour, more = first + timedelta(hours=1), first + timedelta(hours=2)
    async with sessions.pool(bench.database_url, name="reads", size=1) as pool:
        assert len(await series(pool, view, first, more, "minute")) >= 120
        monkeypatch.setattr(series_module, "MAX_CALLS", 0)
        assert len(await series(pool, view, first, hour, "minute")) >= 60
        with pytest.raises(Refused, match="too many") as refused:
            await series(pool, view, first, more, "minute")
        assert (refused.value.status, refused.value.code) == (422, "too_many_calls")
        assert await series(pool, view, first, more, "hour")


@pytest.mark.parametrize("role", SERIES)
async def test_single_hours_are_those_of_the_chart(role: str, bench: Bench, as_ledger: Any) -> None:
    """Asked for here and there; the first is told besides, unless it is from before."""
    records = bench.history(FULL).records()
    await books.commit(as_ledger, {}, {}, records)
    view = view_of(role, bench)
    since, until = min(record.time for record in records), max(record.time for record in records)
    async with sessions.pool(bench.database_url, name="reads", size=1) as pool:
        chart = [
            {"time": row["time"], "failed": row["failed"], "cost_cents": row["cost_cents"]}
            for row in await series(pool, view, since, until + timedelta(seconds=1), "hour")
            if any(row[end] for end in ENDS)
        ]
        first, *others = (row["time"] for row in chart)
        for hours, after, wanted in (
            ([row["time"] for row in chart], first, chart),
            (others[-1:], first, [chart[0], *chart[-1:]] if others else chart),
            ([first + timedelta(days=900)], first + timedelta(days=899), []),
        ):
            found = await single_hours(pool, view, hours, after)
            assert sorted(found, key=lambda row: row["time"]) == wanted


def _nodes(node: dict[str, Any]) -> Any:
    """The nodes of a plan that are looked at for each row: not those that are asked once."""
    if node.get("Parent Relationship") != "InitPlan":
        yield node
        for child in node.get("Plans", ()):
            yield from _nodes(child)


async def test_percentiles_are_within_the_stated_error(bench: Bench, as_ledger: Any) -> None:
    rows = await as_ledger.fetch(
        "SELECT v, latency_floor(v) AS f, latency_floor(v) + (latency_width(latency_floor(v)) - 1) / 2 AS middle, "
        "latency_floor(v) + latency_width(latency_floor(v)) - 1 AS last "
        "FROM (SELECT generate_series(0, 5000)::bigint "
        "UNION ALL SELECT (1.37 ^ n)::bigint FROM generate_series(27, 120) AS n) "
        "AS values (v)"
    )
    for row in rows:
        value = row["v"]
        assert row["f"] <= value <= row["last"], value
        assert row["last"] * 16 <= max(row["f"], 1) * 17 if value >= 32 else row["f"] == row["last"], value
        assert abs(row["middle"] - value) * 32 <= value, value
    assert await as_ledger.fetchval("SELECT latency_floor(-5)") == 0
