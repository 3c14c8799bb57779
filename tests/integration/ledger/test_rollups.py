"""The rollups of calls: as exact as the calls whatever comes late, and read without a scan of the calls."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.ledger import books, rollups, sessions
from services.ledger.dashboards import BY_NAME
from services.ledger.overview import _HOURS_OF_TENANTS, _HOURS_OF_USERS
from shared.events.envelope import at
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
}


async def wrong(connection: Any, bench: Bench) -> set[str]:
    """The rollups that have a wrong row of the tenant."""
    found = await rollups.differences(connection)
    return {subject.split()[0] for subject, _ in found if str(bench.tenant) in subject}


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
        assert await wrong(as_ledger, bench) == {name}
        await point.rollback()
    await transaction.rollback()


@pytest.mark.parametrize("role", [sessions.USER, sessions.AUDITOR, sessions.OPERATOR])
async def test_a_look_scans_no_calls_and_asks_for_its_settings_once(role: str, bench: Bench, as_ledger: Any) -> None:
    users = bench.users if role == sessions.USER else ()
    series = _HOURS_OF_USERS if users else _HOURS_OF_TENANTS
    asked = (bench.tenant, None, 3600, at(0), at(10**12))
    async with sessions.reading(as_ledger, role, bench.tenant, users):
        for sql, arguments in (
            (BY_NAME["cache_hit_rate"].sql, ()),
            (BY_NAME["provider_cost_latency"].sql, ()),
            (series, asked),
        ):
            (plan,) = orjson.loads(await as_ledger.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments))
            nodes = list(_nodes(plan["Plan"]))
            assert "llm_api_calls" not in {node.get("Relation Name") for node in nodes}
            conditions = " ".join(str(node.get(name)) for node in nodes for name in ("Filter", "Index Cond"))
            assert "current_setting" not in conditions


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
