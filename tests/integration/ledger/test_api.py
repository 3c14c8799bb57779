"""The read API under the caller's own row-level security; an operator's look is written down."""

from __future__ import annotations

import csv
import hashlib
import io
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import orjson
import pytest

from services.ledger import api, books, lists, sessions
from services.ledger.dashboards import BY_NAME
from services.ledger.keys import Doorkeeper
from services.ledger.overview import Overview
from shared.clock import ServerClock
from shared.partitions import CONTROL
from shared.service import health_routes
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, Bench


class Door:
    """The read API of a ledger, and keys for it."""

    def __init__(self, bench: Bench, control: ControlReader, client: httpx.AsyncClient) -> None:
        self.bench = bench
        self.control = control
        self.client = client

    async def key(self, role: str, tenant: UUID, user: UUID | None = None) -> str:
        """A new key's secret."""
        secret = secrets.token_urlsafe(32)
        event = {"type": "key.created", "key_id": secrets.token_hex(8), "tenant_id": str(tenant), "role": role}
        event["secret_sha256"] = hashlib.sha256(secret.encode()).hexdigest()
        if user is not None:
            event["user_id"] = str(user)
        await self.bench.redis_as("operator").xadd(CONTROL, {"data": orjson.dumps(event)})
        await self.control.catch_up()
        return secret

    async def get(self, path: str, secret: str | None) -> httpx.Response:
        """GET as the holder of this key."""
        await self.control.catch_up()
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return await self.client.get(path, headers=headers)


@pytest.fixture
async def door(bench: Bench, as_ledger: Any, postgres: EmbeddedPostgres) -> AsyncIterator[Door]:
    """A ledger's API over a history of two users."""
    history = bench.history(FULL)
    await books.commit(as_ledger, {}, {}, history.records() + history.control_records())
    control = ControlReader(bench.redis_as("ledger"), 60_000)
    async with sessions.pool(postgres.url("skeldir_ledger"), name="api", size=2) as pool:
        clock = ServerClock()
        overview = Overview(pool, bench.redis_as("ledger"), control, clock, Partitions(1))
        app = api.build(pool, Doorkeeper(control, clock), health_routes(lambda: {}), overview)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ledger") as client:
            yield Door(bench, control, client)


async def test_a_users_key_sees_that_user(door: Door) -> None:
    tenant, user = door.bench.tenant, door.bench.users[0]
    key = await door.key("producer", tenant, user)
    calls = (await door.get("/v1/calls", key)).json()["calls"]
    assert calls
    assert (await door.get("/v1/calls", key)).headers["cache-control"] == "no-store"
    assert {(call["tenant_id"], call["user_id"]) for call in calls} == {(str(tenant), str(user))}
    one = (await door.get(f"/v1/calls/{calls[0]['id']}", key)).json()
    assert one["request_metadata_ref"]["origin"] == "http"
    events = (await door.get(f"/v1/events?task_id={calls[-1]['id']}", key)).json()["events"]
    assert [event["type"] for event in events][:2] == ["task.submitted", "task.allowed"]
    for name in ("monthly_spend", "cache_hit_rate", "breaker_shutoff_state", "provider_cost_latency"):
        assert (await door.get(f"/v1/dashboards/{name}", key)).json()["rows"], name


async def test_a_users_key_sees_no_other(door: Door) -> None:
    mine = await door.key("producer", door.bench.tenant, door.bench.users[0])
    other = await door.key("producer", door.bench.tenant, door.bench.users[1])
    theirs = (await door.get("/v1/calls", other)).json()["calls"]
    assert (await door.get(f"/v1/calls/{theirs[0]['id']}", mine)).status_code == 404
    assert (await door.get(f"/v1/events?task_id={theirs[0]['id']}", mine)).json()["events"] == []
    assert (await door.get(f"/v1/calls?user_id={door.bench.users[1]}", mine)).status_code == 403
    assert (await door.get(f"/v1/calls?tenant_id={uuid4()}", mine)).status_code == 403
    stranger = await door.key("auditor", uuid4())
    assert (await door.get("/v1/calls", stranger)).json()["calls"] == []


async def test_a_tenants_key_sees_all_its_users_or_one(door: Door) -> None:
    key = await door.key("auditor", door.bench.tenant)
    calls = (await door.get("/v1/calls?limit=500", key)).json()["calls"]
    assert {call["user_id"] for call in calls} == {str(user) for user in door.bench.users}
    narrowed = (await door.get(f"/v1/calls?user_id={door.bench.users[1]}", key)).json()["calls"]
    assert {call["user_id"] for call in narrowed} == {str(door.bench.users[1])}


async def test_an_operators_look_is_written_down(door: Door, as_ledger: Any) -> None:
    home = uuid4()
    key = await door.key("operator", home)
    calls = (await door.get(f"/v1/calls?tenant_id={door.bench.tenant}&limit=500", key)).json()["calls"]
    assert {call["user_id"] for call in calls} == {str(user) for user in door.bench.users}
    tenant, user = door.bench.tenant, door.bench.users[0]
    others = (
        f"/v1/dashboards/monthly_spend?tenant_id={tenant}&user_id={user}",
        f"/v1/costs?tenant_id={tenant}&user_id={user}",
        f"/v1/statement?tenant_id={tenant}",
    )
    for path in others:
        assert (await door.get(path, key)).status_code == 200, path
    rows = await as_ledger.fetch("SELECT what, tenant_id, user_id FROM read_audit WHERE key_tenant_id = $1", home)
    # With a user's eyes, too: it is an operator who has borrowed them.
    assert {tuple(row) for row in rows} == {
        ("calls", tenant, None),
        ("dashboards/monthly_spend", tenant, user),
        ("costs", tenant, user),
        ("statement", tenant, None),
    }


async def test_pages_follow_one_another(door: Door) -> None:
    key = await door.key("auditor", door.bench.tenant)
    whole = [call["id"] for call in (await door.get("/v1/calls?limit=500", key)).json()["calls"]]
    found: list[str] = []
    before = ""
    while before is not None:
        page = (await door.get(f"/v1/calls?limit=3{before and '&before=' + before}", key)).json()
        found += [call["id"] for call in page["calls"]]
        before = page["next"]
    assert found == whole
    assert len(set(found)) == len(found) > 3


async def whole(door: Door, path: str, name: str, key: str, limit: int) -> list[dict[str, Any]]:
    """All rows of a list, page by page, each page as CSV too."""
    found, before, and_ = list[dict[str, Any]](), "", "&" if "?" in path else "?"
    while before is not None:
        query = f"{path}{and_}limit={limit}{before and '&before=' + before}"
        page = (await door.get(query, key)).json()
        lines = csv.DictReader(io.StringIO((await door.get(f"{query}&format=csv", key)).text, newline=""))
        assert len(list(lines)) == len(page[name]), query
        found, before = found + page[name], page["next"]
    assert len({orjson.dumps(row) for row in found}) == len(found)
    return found


@pytest.mark.parametrize("name", BY_NAME)
async def test_dashboards_are_narrowed_and_come_in_pages(name: str, door: Door) -> None:
    auditor, operator = await door.key("auditor", door.bench.tenant), await door.key("operator", uuid4())
    path = f"/v1/dashboards/{name}"
    at_once = (await door.get(path, auditor)).json()
    assert (at_once["name"], at_once["next"]) == (name, None)
    assert await whole(door, path, "rows", auditor, 1) == at_once["rows"] != []
    of_tenant = f"{path}?tenant_id={door.bench.tenant}"
    assert (await door.get(of_tenant, operator)).json()["rows"] == at_once["rows"], "by the tenant's own eyes"
    assert (await door.get(f"{path}?tenant_id={uuid4()}", operator)).json()["rows"] == []
    assert (await door.get(f"{path}?user_id={door.bench.users[0]}", operator)).status_code == 422
    user = f"{of_tenant}&user_id={door.bench.users[0]}"
    mine = await door.key("producer", door.bench.tenant, door.bench.users[0])
    assert (await door.get(user, operator)).json()["rows"] == (await door.get(path, mine)).json()["rows"]


async def test_the_events_of_a_task_come_in_pages(door: Door) -> None:
    key = await door.key("auditor", door.bench.tenant)
    call = (await door.get("/v1/calls?status=success&limit=1", key)).json()["calls"][0]
    path = f"/v1/events?task_id={call['id']}"
    at_once = (await door.get(path, key)).json()["events"]
    assert len(at_once) > 2
    assert await whole(door, path, "events", key, 1) == at_once


async def test_costs_add_up_whatever_they_are_told_by(door: Door) -> None:
    auditor, operator = await door.key("auditor", door.bench.tenant), await door.key("operator", uuid4())
    mine = await door.key("producer", door.bench.tenant, door.bench.users[0])
    calls = (await door.get("/v1/calls?limit=500", auditor)).json()["calls"]
    month = min(call["created_at"] for call in calls)[:7]
    of_month = [call for call in calls if call["created_at"].startswith(month) and call["status"] != "pending"]
    in_all = sum(Decimal(str(call["cost_cents"])) for call in of_month)
    for by in ("tenant", "user", "provider", "model", "task_type"):
        rows = await whole(door, f"/v1/costs?by={by}&month={month}", "costs", auditor, 1)
        assert sum(row["calls"] for row in rows) == len(of_month), by
        assert sum(row["success"] + row["blocked"] + row["failed"] for row in rows) == len(of_month), by
        assert sum(Decimal(str(row["cost_cents"])) for row in rows) == in_all > 0, by
        assert [row["cost_cents"] for row in rows] == sorted((row["cost_cents"] for row in rows), reverse=True)
        narrowed = f"/v1/costs?by={by}&month={month}&tenant_id={door.bench.tenant}"
        assert await whole(door, narrowed, "costs", operator, 500) == rows
    users = await whole(door, f"/v1/costs?by=user&month={month}", "costs", mine, 500)
    assert [row["user"] for row in users] == [str(door.bench.users[0])]
    everyone = await whole(door, f"/v1/costs?by=tenant&month={month}", "costs", operator, 500)
    assert (
        Decimal(str(next(row for row in everyone if row["tenant"] == str(door.bench.tenant))["cost_cents"])) == in_all
    )
    assert (await door.get("/v1/costs?by=model", operator)).status_code == 200
    assert (await door.get("/v1/costs?by=user", operator)).status_code == 422


async def test_a_statement_is_the_months_to_the_last_unit(door: Door, as_superuser: Any) -> None:
    auditor, operator = await door.key("auditor", door.bench.tenant), await door.key("operator", uuid4())
    first = await as_superuser.fetchval(
        "SELECT min(month) FROM llm_monthly_costs WHERE tenant_id = $1 AND total_cost_cents > 0", door.bench.tenant
    )
    in_all = await as_superuser.fetchval(
        "SELECT sum(total_cost_cents) FROM llm_monthly_costs WHERE tenant_id = $1 AND month = $2",
        door.bench.tenant,
        first,
    )
    path = f"/v1/statement?month={first:%Y-%m}"
    told = (await door.get(path, auditor)).json()
    assert (told["tenant_id"], Decimal(told["cost_cents"])) == (str(door.bench.tenant), in_all)
    assert (await door.get(f"{path}&tenant_id={door.bench.tenant}", operator)).json() == told
    lines = list(csv.DictReader(io.StringIO((await door.get(f"{path}&format=csv", auditor)).text)))
    assert sum(Decimal(line["cost_cents"]) for line in lines) == in_all
    page = await door.get(f"{path}&format=html", auditor)
    assert f"{in_all.normalize():f} cents" in page.text
    assert (
        "script" not in page.headers["content-security-policy"]
        and "unsafe" not in page.headers["content-security-policy"]
    )
    for key, query in (
        (operator, path),
        (auditor, f"{path}&user_id={door.bench.users[0]}"),
        (auditor, "/v1/statement?month=May"),
    ):
        assert (await door.get(query, key)).status_code == 422, query
    assert (await door.get(path, await door.key("producer", door.bench.tenant, door.bench.users[0]))).status_code == 422


async def test_an_unusual_hour_is_marked_for_who_may_see_it(
    door: Door, as_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty days of a call each, then one that costs more."""
    monkeypatch.setattr("services.ledger.anomalies.LEAST", {"spend": Decimal(2), "failures": Decimal(2)})
    bench = Bench(door.bench.redis_as, door.bench.database_url, door.bench.partition, uuid4(), (uuid4(), uuid4()))
    call, day = (("submit", 0, 1), ("succeed", 0, 1)), (("wait", 1, 0),) * 24
    history = bench.history((*((*call, *day) * 20), ("submit", 0, 4), ("succeed", 0, 12)))
    await books.commit(as_ledger, {}, {}, history.records())
    end = datetime.fromtimestamp(history.now_ms / 1000, UTC)
    day_before = (end - timedelta(days=1)).isoformat()
    path = f"/v1/anomalies?since={quote(day_before)}&until={quote(end.isoformat())}"
    auditor = await door.key("auditor", bench.tenant)
    (found,) = (await door.get(path, auditor)).json()["anomalies"]
    assert (found["what"], found["value"], found["usual"]) == ("spend", 3, 0.25)
    assert found["hour"].startswith(f"{end:%Y-%m-%d %H:00}") or found["hour"].startswith(f"{end:%Y-%m-%dT%H:00}")
    for user, seen in zip(bench.users, (1, 0), strict=True):
        mine = await door.key("producer", bench.tenant, user)
        assert len((await door.get(path, mine)).json()["anomalies"]) == seen
    assert (await door.get(path, await door.key("auditor", uuid4()))).json()["anomalies"] == []
    operator = await door.key("operator", uuid4())
    assert len((await door.get(f"{path}&tenant_id={bench.tenant}", operator)).json()["anomalies"]) == 1


async def test_filters_narrow_and_searches_find(door: Door) -> None:
    key = await door.key("auditor", door.bench.tenant)

    async def found(query: str) -> list[dict[str, Any]]:
        reply = await door.get(f"/v1/calls?limit=500{query}", key)
        assert reply.status_code == 200, reply.text
        return list(reply.json()["calls"])

    everything = await found("")
    refused = next(call for call in everything if call["block_reason"])
    wanted = {call["id"] for call in everything if refused["block_reason"] in (call["block_reason"], None)}
    assert {call["id"] for call in await found(f"&reason={refused['block_reason']}")} == wanted
    assert {call["status"] for call in await found("&status=failed")} == {"failed"}
    assert len(await found(f"&model={refused['model']}&task_type={refused['task_type']}")) > 0
    assert await found("&model=another") == []
    for text in (refused["request_id"], refused["id"]):
        assert [call["id"] for call in await found(f"&q={text}")] == [refused["id"]]
    assert refused["id"] in {call["id"] for call in await found(f"&q={refused['request_id'][:-1]}*")}
    middle = sorted(call["created_at"] for call in everything)[len(everything) // 2].replace(" ", "T")
    later, earlier = await found(f"&since={quote(middle)}"), await found(f"&until={quote(middle)}")
    assert later and earlier and len(later) + len(earlier) == len(everything)


async def test_a_timeline_says_why(door: Door) -> None:
    key = await door.key("auditor", door.bench.tenant)
    call = (await door.get("/v1/calls?status=blocked&limit=1", key)).json()["calls"][0]
    told = (await door.get(f"/v1/calls/{call['id']}/timeline", key)).json()
    assert told["call"]["id"] == call["id"]
    assert told["events"][0]["type"] == "task.submitted"
    verdict = told["verdict"]
    assert (verdict["decision"], verdict["reason"]) == ("blocked", call["block_reason"])
    assert verdict["rule"] and verdict["sentence"]
    answered = (await door.get("/v1/calls?status=success&limit=1", key)).json()["calls"][0]
    verdict = (await door.get(f"/v1/calls/{answered['id']}/timeline", key)).json()["verdict"]
    assert verdict["decision"] == "allowed"
    assert {(seen["scope"], seen["window"]) for seen in verdict["limits"]} >= {("user", "hour"), ("user", "month")}


async def test_the_same_rows_as_csv_page_by_page(door: Door) -> None:
    key = await door.key("auditor", door.bench.tenant)
    whole = (await door.get("/v1/calls?limit=500", key)).json()["calls"]
    found: list[dict[str, str]] = []
    path: str | None = "/v1/calls?limit=7&format=csv"
    while path is not None:
        reply = await door.get(path, key)
        assert reply.headers["content-type"].startswith("text/csv")
        found += csv.DictReader(io.StringIO(reply.text, newline=""))
        path = reply.links["next"]["url"] if "next" in reply.links else None
    assert [row["id"] for row in found] == [call["id"] for call in whole]
    in_all = sum(Decimal(str(call["cost_cents"])) for call in whole)
    assert sum(Decimal(row["cost_cents"]) for row in found) == in_all > 0
    accepted = await door.client.get("/v1/calls", headers={"Authorization": f"Bearer {key}", "Accept": "text/csv"})
    assert accepted.text.startswith("id,tenant_id,")


async def test_states_are_listed_in_view_and_each_page_ends(door: Door) -> None:
    mine = await door.key("producer", door.bench.tenant, door.bench.users[0])
    auditor = await door.key("auditor", door.bench.tenant)
    for name in ("spend", "breakers", "switches", "shutoffs", "limits", "quotas", "downgrades", "uncertain"):
        for key, users in ((mine, door.bench.users[:1]), (auditor, door.bench.users)):
            rows, before = list[dict[str, Any]](), ""
            while before is not None:
                page = (await door.get(f"/v1/{name}?limit=1{before and '&before=' + before}", key)).json()
                rows, before = rows + page[name], page["next"]
            assert {row["user_id"] for row in rows} <= {None, *(str(user) for user in users)}, name
            assert len({orjson.dumps(row) for row in rows}) == len(rows)
    spent = (await door.get("/v1/spend?window=month", auditor)).json()["spend"]
    assert spent and {row["budget_window"] for row in spent} == {"month"}
    over = (await door.get("/v1/overview", auditor)).json()
    assert len(over["minutes"]) == 60 and "lag" not in over
    week = "since=2026-01-01T00:00:00Z&until=2026-01-08T00:00:00Z"
    assert len((await door.get(f"/v1/series?step=day&{week}", auditor)).json()["series"]) == 7
    assert over["unusual"] == []


async def test_windows_of_all_tenants_come_newest_first_and_the_nearest_to_their_caps(door: Door) -> None:
    auditor, operator = await door.key("auditor", door.bench.tenant), await door.key("operator", uuid4())
    tenant, span = str(door.bench.tenant), "since=2000-01-01T00:00:00Z&until=2100-01-01T00:00:00Z"
    listed = await whole(door, f"/v1/spend?{span}", "spend", operator, 25)
    by_row = {orjson.dumps(row) for row in listed if row["tenant_id"] == tenant}
    assert by_row == {orjson.dumps(row) for row in await whole(door, "/v1/spend", "spend", auditor, 500)}
    kinds = {(row["scope"], row["budget_window"]) for row in listed}
    assert kinds >= {("user", "hour"), ("user", "month"), ("tenant", "hour")}
    places = [(row["window_start"], int(min(100, row["used_pct"] or 0)), row["tenant_id"]) for row in listed]
    assert places == sorted(places, reverse=True) and len({use for _, use, _ in places}) > 1
    hours = await whole(door, f"/v1/spend?window=hour&{span}", "spend", operator, 25)
    assert hours == [row for row in listed if row["budget_window"] == "hour"]
    now = [(int(min(100, row["used_pct"] or 0)), row) for row in await whole(door, "/v1/spend", "spend", operator, 25)]
    assert [use for use, _ in now] == sorted((use for use, _ in now), reverse=True)
    assert all(row in listed for _, row in now)


async def test_rules_are_listed_while_they_are_in_force(door: Door, as_ledger: Any) -> None:
    auditor, operator = await door.key("auditor", door.bench.tenant), await door.key("operator", uuid4())
    history = door.bench.history(())
    history.now_ms += 3_600_000  # after those of the other history
    tenant, kind = {"tenant_id": str(door.bench.tenant)}, {"task_type": "investigation"}
    history.order(type="quota.set", scope={**tenant, **kind}, window="hour", cents="0.25", actor="ada", reason="dear")
    history.order(type="quota.set", scope={**tenant, "key_id": "key_1234"}, max_in_flight=2, mode="shadow")
    history.order(type="bounds.set", scope={**tenant, **kind}, max_cost_cents=30, timeout_ms=60_000)
    history.order(type="bounds.set", scope={**tenant, **kind}, max_cost_cents=20)
    history.order(type="bounds.set", scope=kind, max_tool_calls=7)
    await books.commit(as_ledger, {}, {}, history.control_records())
    for key, query in ((auditor, ""), (operator, f"?tenant_id={door.bench.tenant}")):
        quotas = await whole(door, f"/v1/quotas{query}", "quotas", key, 1)
        found = {(row["unit"], row["window"], row["limit"], row["shadow"], row["key_id"]) for row in quotas}
        assert found >= {("money", "hour", 0.25, False, None), ("in_flight", None, 2, True, "key_1234")}
        (bounds,) = await whole(door, f"/v1/bounds{query}", "bounds", key, 1)
        assert (bounds["max_cost_cents"], bounds["timeout_ms"], bounds["max_tool_calls"]) == (20, 60_000, None)
        (moved,) = await whole(door, f"/v1/downgrades{query}", "downgrades", key, 1)
        assert (moved["model"], moved["to"], moved["percent"]) == ("model-0", "stub:model-1", 1)
    everybodys = await whole(door, "/v1/bounds", "bounds", operator, 1)
    assert 7 in [row["max_tool_calls"] for row in everybodys if row["tenant_id"] is None]
    history.order(type="quota.unset", scope={**tenant, **kind}, unit="money", window="hour")
    history.order(type="bounds.unset", scope={**tenant, **kind})
    await books.commit(as_ledger, {}, {}, history.control_records())
    left = await whole(door, "/v1/quotas", "quotas", auditor, 500)
    assert "money" not in {row["unit"] for row in left if row["task_type"] == "investigation"}
    assert await whole(door, "/v1/bounds", "bounds", auditor, 500) == []


async def test_orders_are_listed_with_who_and_why(door: Door, as_ledger: Any) -> None:
    auditor, operator = await door.key("auditor", door.bench.tenant), await door.key("operator", uuid4())
    user = await door.key("producer", door.bench.tenant, door.bench.users[0])
    history, tenant = door.bench.history(()), str(door.bench.tenant)
    history.now_ms += 2 * 3_600_000  # after those of the other history
    history.order(type="kill_switch.engaged", scope={"tenant_id": tenant}, actor="ada", reason="a loop")
    history.order(type="kill_switch.engaged", scope={"model": f"m-{tenant}"}, actor="ada", reason="all of it")
    whose = {"tenant_id": tenant, "user_id": str(door.bench.users[0])}
    history.order(type="limits.set", scope=whose, hourly_cents="0.5", actor="ben", reason="small")
    made = {"key_id": "key_12345", "secret_sha256": "0" * 64, "tenant_id": tenant, "role": "auditor"}
    history.order(type="key.created", **made, actor="ada")
    await books.commit(as_ledger, {}, {}, history.control_records())
    listed = await whole(door, "/v1/orders", "orders", auditor, 2)
    assert [row["type"] for row in listed[:3]] == ["key.created", "limits.set", "kill_switch.engaged"]
    assert [row["time"] for row in listed] == sorted((row["time"] for row in listed), reverse=True)
    assert (listed[1]["actor"], listed[1]["reason"], listed[1]["order"]["hourly_cents"]) == ("ben", "small", "0.5")
    assert (listed[2]["scope"], listed[0]["order"]["role"]) == ({"tenant_id": tenant}, "auditor")
    assert "secret_sha256" not in (await door.get("/v1/orders", auditor)).text
    assert "limits.set" in {row["type"] for row in await whole(door, "/v1/orders", "orders", user, 50)}
    assert {row["user_id"] for row in await whole(door, "/v1/orders", "orders", user, 50)} == {whose["user_id"]}
    of_type = await whole(door, "/v1/orders?type=kill_switch.engaged", "orders", operator, 500)
    assert {"model": f"m-{tenant}"} in [row["scope"] for row in of_type], "an operator sees those of no tenant, too"
    assert {row["type"] for row in of_type} == {"kill_switch.engaged"}


async def test_what_belongs_to_no_tenant_is_for_operators(door: Door, as_ledger: Any) -> None:
    auditor, operator = await door.key("auditor", door.bench.tenant), await door.key("operator", uuid4())
    for path in ("/v1/dead-letters", "/v1/reads"):
        assert (await door.get(path, auditor)).status_code == 403
        assert (await door.get(path, operator)).status_code == 200
    assert (await door.get("/v1/overview", operator)).json()["lag"][0]["partition"] == 0
    rows = await as_ledger.fetch("SELECT what FROM read_audit WHERE key_tenant_id = $1", door.bench.tenant)
    await door.get(f"/v1/spend?tenant_id={door.bench.tenant}&user_id={door.bench.users[0]}", auditor)
    assert [row["what"] for row in rows] == [], "a refused look shows nothing, and one at a user is the user's"
    await door.get("/v1/spend", auditor)
    rows = await as_ledger.fetch("SELECT what FROM read_audit WHERE key_tenant_id = $1", door.bench.tenant)
    assert [row["what"] for row in rows] == ["spend"], "a look at a whole tenant is written down"


async def test_a_question_that_takes_too_long_is_stopped(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ledger.looking.STATEMENT_TIMEOUT_MS", 1)
    slow = replace(lists.CALLS, always="(SELECT pg_sleep(5)) IS NOT NULL")
    monkeypatch.setattr("services.ledger.lists.CALLS", slow)
    reply = await door.get("/v1/calls", await door.key("auditor", door.bench.tenant))
    assert (reply.status_code, reply.headers["content-type"]) == (503, "application/problem+json")
    assert "narrow it" in reply.json()["detail"]


async def test_the_read_api_is_described(door: Door) -> None:
    paths = (await door.client.get("/openapi.json")).json()["paths"]
    parameters = {one["name"] for one in paths["/v1/calls"]["get"]["parameters"]}
    assert parameters >= {"status", "reason", "model", "since", "q", "before", "tenant_id", "format"}
    assert "application/problem+json" in paths["/v1/spend"]["get"]["responses"]["403"]["content"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/calls?limit=0", 422, "invalid_parameter"),
        ("/v1/calls?limit=many", 422, "invalid_parameter"),
        ("/v1/calls?status=odd", 422, "invalid_parameter"),
        ("/v1/calls?before=then", 422, "invalid_cursor"),
        ("/v1/calls?user_id=me", 422, "invalid_parameter"),
        ("/v1/calls/none", 422, "invalid_parameter"),
        ("/v1/events", 422, "invalid_parameter"),
        ("/v1/calls?since=2026-01-01T00:00:00", 422, "invalid_parameter"),
        ("/v1/calls?before=WyJhIiwiYiJd", 422, "invalid_parameter"),
        ("/v1/calls?before=WyJ4Il0", 422, "invalid_cursor"),
        (f"/v1/calls?before={'W' * 3000}", 422, "invalid_parameter"),
        ("/v1/calls?format=xml", 422, "invalid_parameter"),
        ("/v1/series?step=minute&since=2020-01-01T00:00:00Z", 422, "invalid_parameter"),
        ("/v1/anomalies?since=2020-01-01T00:00:00Z", 422, "invalid_parameter"),
        ("/v1/series?until=0001-01-01T00:00:00Z", 422, "invalid_parameter"),
        ("/v1/series?step=day&since=9999-12-30T00:00:00Z&until=9999-12-31T23:59:59Z", 422, "invalid_parameter"),
        ("/v1/anomalies?since=0001-01-01T00:00:00Z&until=0001-01-02T00:00:00Z", 422, "invalid_parameter"),
        ("/v1/anomalies?since=9999-12-31T23:00:00-14:00&until=9999-12-31T23:59:59-14:00", 422, "invalid_parameter"),
        ("/v1/costs?by=mood", 422, "invalid_parameter"),
        ("/v1/costs?month=2026-13", 422, "invalid_parameter"),
        ("/v1/statement?format=pdf", 422, "invalid_parameter"),
        ("/v1/nothing", 404, "no_such_path"),
        (f"/v1/calls/{UUID(int=4711)}", 404, "unknown_call"),
        ("/v1/dashboards/pg_roles", 404, "unknown_dashboard"),
    ],
)
async def test_bad_questions_get_a_clear_answer(path: str, status: int, code: str, door: Door) -> None:
    reply = await door.get(path, await door.key("auditor", door.bench.tenant))
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["detail"] and problem["instance"] == path.partition("?")[0]
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:skeldir:problem:{code}")


async def test_nobody_reads_while_keys_cannot_be_checked(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    auditor = await door.key("auditor", door.bench.tenant)
    monkeypatch.setattr(ControlReader, "is_stale", True)
    refused = await door.get("/v1/calls", auditor)
    assert (refused.status_code, refused.json()["code"]) == (503, "control_stale")
    assert refused.headers["retry-after"] == "1"


async def test_a_fault_of_ours_is_a_problem_that_tells_nothing(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> None:
        raise KeyError("a secret")

    auditor = await door.key("auditor", door.bench.tenant)
    monkeypatch.setattr(Overview, "series", fails)
    app = door.client._transport.app  # type: ignore[attr-defined]
    quiet = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=quiet, base_url="http://ledger") as client:
        reply = await client.get("/v1/series", headers={"Authorization": f"Bearer {auditor}"})
    assert (reply.status_code, reply.json()["code"]) == (500, "internal_error")
    assert "secret" not in reply.text


async def test_another_method_is_told_which_one_there_is(door: Door) -> None:
    reply = await door.client.post("/v1/calls")
    assert reply.status_code == 405 and "GET" in reply.headers["allow"]


async def test_without_a_good_key_nobody_reads(door: Door) -> None:
    assert (await door.get("/v1/calls", None)).status_code == 401
    assert (await door.get("/v1/calls", "guess")).status_code == 401
    secret = await door.key("auditor", door.bench.tenant)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    revoked = {"type": "key.revoked", "key_id": door.control.state.keys[digest].key_id}
    await door.bench.redis_as("operator").xadd(CONTROL, {"data": orjson.dumps(revoked)})
    assert (await door.get("/v1/calls", secret)).status_code == 401
