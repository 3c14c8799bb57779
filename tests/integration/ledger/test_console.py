"""The console's doors: logins, cookies, what another site's page may not do, the policy that its page is under."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from services.ledger import api, sessions
from services.ledger.console import logins, routes
from services.ledger.console.logins import Logins
from services.ledger.console.orders import Orders
from services.ledger.console.routes import Console
from services.ledger.keys import Doorkeeper, View
from services.ledger.overview import Overview
from shared.clock import ServerClock
from shared.partitions import CONTROL
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import Bench, eventually
from tests.integration.ledger.test_api import Door
from tests.unit.ledger.history import HOUR_MS, play

STOP = {"type": "kill_switch.engaged", "scope": {}, "reason": "a test"}


class Page(Door):
    """A browser's view of the console: a cookie jar, and the token that the page was given."""

    csrf = ""

    async def log_in(self, role: str, **headers: str) -> httpx.Response:
        """Log in with a new key of that role."""
        secret = await self.key(role, self.bench.tenant)
        reply = await self.client.post("/console/login", json={"key": secret}, headers=headers)
        self.csrf = reply.json().get("csrf", "")
        return reply

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """POST as the page does it."""
        return await self.client.post(path, json=body, headers={"X-CSRF-Token": self.csrf, **headers})


@pytest.fixture
async def page(bench: Bench, postgres: EmbeddedPostgres) -> AsyncIterator[Page]:
    """A console without a gateway."""
    control, clock = ControlReader(bench.redis_as("ledger"), 60_000), ServerClock()
    async with sessions.pool(postgres.url("skeldir_ledger"), name="console", size=2) as pool:
        overview, door = (
            Overview(pool, bench.redis_as("ledger"), control, clock, Partitions(1)),
            Doorkeeper(control, clock),
        )
        app = api.build(pool, door, [], overview)
        Console(pool, door, overview, Logins(clock), Orders(None)).attach(app)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://ledger") as client:
            yield Page(bench, control, client)


async def test_a_login_is_a_cookie_that_no_script_and_no_other_site_gets(page: Page) -> None:
    reply = await page.log_in("operator")
    cookie = reply.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "secure", "path=/"))
    assert reply.json()["role"] == "operator"
    assert (await page.client.get("/v1/calls")).status_code == 200, "the cookie stands for the key, to read"
    assert (await page.post("/console/logout", {})).status_code == 200
    assert (await page.client.get("/v1/calls")).status_code == 401


async def test_a_wrong_key_does_not_log_in(page: Page) -> None:
    await page.control.catch_up()
    reply = await page.client.post("/console/login", json={"key": "guess"})
    assert (reply.status_code, "set-cookie" in reply.headers) == (401, False)


async def test_another_sites_page_can_do_nothing(page: Page) -> None:
    await page.log_in("operator")
    for path in ("/console/reach", "/console/orders", "/console/logout"):
        assert (await page.client.post(path, json=STOP)).status_code == 403, "without the token"
        assert (await page.post(path, STOP, **{"Sec-Fetch-Site": "cross-site"})).status_code == 403
        form = {"X-CSRF-Token": page.csrf, "Content-Type": "text/plain"}
        assert (await page.client.post(path, content=orjson.dumps(STOP), headers=form)).status_code == 415
    assert (await page.log_in("operator", **{"Sec-Fetch-Site": "cross-site"})).status_code == 403


async def test_orders_are_for_operators_and_say_what_is_missing(page: Page, as_ledger: Any) -> None:
    await page.log_in("auditor")
    assert (await page.post("/console/orders", STOP)).status_code == 403
    assert (await page.post("/console/reach", STOP)).status_code == 403
    assert (await page.log_in("operator")).json()["may_order"] is False
    refused = await page.post("/console/orders", STOP)
    assert (refused.status_code, "SKELDIR_GATEWAY_URL" in refused.json()["detail"]) == (503, True)
    reached = await page.post("/console/reach", {**STOP, "scope": {"tenant_id": str(uuid4())}})
    assert reached.json() == {"under_way": 0, "calls": 0, "cost_cents": 0, "tenants": 0, "users": 0}
    rows = await as_ledger.fetch("SELECT what FROM read_audit WHERE key_tenant_id = $1", page.bench.tenant)
    assert [row["what"] for row in rows] == ["reach of an order"]
    assert (await page.post("/console/reach", {"type": "unheard.of"})).status_code == 422


async def test_what_a_stop_would_reach_is_of_the_hour_that_the_overview_shows(page: Page, as_ledger: Any) -> None:
    """One call each five seconds of the minute an hour ago, of which both leave out the same ones."""
    bench = page.bench
    ops = [op for number in range(12) for op in (("submit", number, 700), ("succeed", 0, 4))]
    calls = play(ops, bench.owners, ServerClock().now_ms() - HOUR_MS)
    await bench.append(*calls.entries)
    ended = "SELECT count(*) = 12 FROM llm_api_calls WHERE tenant_id = $1 AND status = 'success' AND cost_cents = 1"
    async with bench.writer():
        await eventually(lambda: as_ledger.fetchval(ended, bench.tenant), "they are in the books")
    await page.log_in("operator")
    scope = {"tenant_id": str(bench.tenant)}

    async def same() -> bool:
        """Unless a minute begins between the two questions."""
        reached = (await page.post("/console/reach", {**STOP, "scope": scope})).json()
        minutes = (await page.client.get("/v1/overview", params=scope)).json()["minutes"]
        shown = sum(one["success"] for one in minutes)
        return (shown, sum(one["cost_cents"] for one in minutes)) == (reached["calls"], reached["cost_cents"])

    await eventually(same, "both say the same")


async def test_a_revoked_key_or_a_login_left_alone_ends(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    key_id = (await page.log_in("auditor")).json()["key_id"]
    await page.bench.redis_as("operator").xadd(
        CONTROL, {"data": orjson.dumps({"type": "key.revoked", "key_id": key_id})}
    )
    await page.control.catch_up()
    assert (await page.client.get("/v1/calls")).status_code == 401
    await page.log_in("auditor")
    assert (await page.client.get("/v1/calls")).status_code == 200
    monkeypatch.setattr(logins, "IDLE_MS", -1)
    assert (await page.client.get("/console/session")).json() == {"role": None}


async def test_the_live_stream_is_one_recorded_look(
    page: Page, as_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "LONGEST_STREAM_S", 0.05)
    monkeypatch.setattr(routes, "EVERY_S", 0.02)
    await page.log_in("auditor")
    reply = await page.client.get("/console/live")
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [part for part in reply.text.split("\n\n") if part]
    assert events
    assert len(orjson.loads(events[0].partition("data: ")[2])["minutes"]) == 60
    rows = await as_ledger.fetch("SELECT what FROM read_audit WHERE key_tenant_id = $1", page.bench.tenant)
    assert [row["what"] for row in rows] == ["console"]


async def test_the_live_stream_goes_by_the_key_in_its_header_before_the_cookies(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That key's end is the stream's, whoever is logged in beside it."""
    monkeypatch.setattr(routes, "LONGEST_STREAM_S", 0.05)
    secret = await page.key("auditor", page.bench.tenant)
    header = {"Authorization": f"Bearer {secret}"}
    assert (await page.client.get("/console/live", headers=header)).text.startswith("event: overview")
    await page.log_in("auditor")
    key = page.control.state.key_for(hashlib.sha256(secret.encode()).hexdigest(), 0)
    look = Overview.look

    async def look_and_revoke(overview: Overview, view: View) -> Any:
        revoked = {"type": "key.revoked", "key_id": key.key_id if key else ""}
        await page.bench.redis_as("operator").xadd(CONTROL, {"data": orjson.dumps(revoked)})
        await page.control.catch_up()
        return await look(overview, view)

    monkeypatch.setattr(Overview, "look", look_and_revoke)
    monkeypatch.setattr(routes, "LONGEST_STREAM_S", 60)  # it ends before, by the refusal
    monkeypatch.setattr(routes, "EVERY_S", 0.01)
    told = (await page.client.get("/console/live", headers=header)).text
    assert re.findall(r"^event: (\w+)", told, re.MULTILINE) == ["overview", "refused"]


async def test_the_page_is_under_a_strict_policy(page: Page) -> None:
    reply = await page.client.get("/console")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "<script>" not in reply.text and "style=" not in reply.text and "http:" not in reply.text
    for name in ("app.js", "console.css", "uplot.js", "uplot.LICENSE.txt"):
        file = await page.client.get(f"/console/static/{name}")
        assert (file.status_code, file.headers["x-content-type-options"]) == (200, "nosniff"), name
    again = await page.client.get("/console", headers={"If-None-Match": reply.headers["etag"]})
    assert again.status_code == 304
    assert (await page.client.get("/console/static/routes.py")).status_code == 404


async def test_the_page_is_light_and_all_of_it_is_asked_for_at_once(page: Page) -> None:
    """docs/console.md says how much; a phone waits for no file that another file names."""
    html = (await page.client.get("/console")).text
    names = set(re.findall(r"/console/static/([a-z]+\.(?:js|css|svg))", html))
    folder = resources.files("services.ledger.console").joinpath("static")
    assert names == {file.name for file in folder.iterdir() if file.name.endswith((".js", ".css", ".svg"))}
    replies = [await page.client.get("/console"), *[await page.client.get(f"/console/static/{name}") for name in names]]
    assert all(reply.headers["content-encoding"] == "gzip" for reply in replies)
    assert sum(len(gzip.compress(reply.content, 9)) for reply in replies) < 64_000
