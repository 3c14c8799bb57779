"""The read API under the caller's own row-level security; an operator's look is written down."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest

from services.ledger import api, books, sessions
from services.ledger.keys import Doorkeeper
from shared.clock import ServerClock
from shared.partitions import CONTROL
from shared.service import health_routes
from shared.streams.control_reader import ControlReader
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
        app = api.build(pool, Doorkeeper(control, ServerClock()), health_routes(lambda: {}))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ledger") as client:
            yield Door(bench, control, client)


async def test_a_users_key_sees_that_user(door: Door) -> None:
    tenant, user = door.bench.tenant, door.bench.users[0]
    key = await door.key("producer", tenant, user)
    calls = (await door.get("/v1/calls", key)).json()["calls"]
    assert calls
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
    rows = await as_ledger.fetch("SELECT what, tenant_id FROM read_audit WHERE key_tenant_id = $1", home)
    assert [tuple(row) for row in rows] == [("calls", door.bench.tenant)]


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


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/calls?limit=0", 422),
        ("/v1/calls?limit=many", 422),
        ("/v1/calls?status=odd", 422),
        ("/v1/calls?before=then", 422),
        ("/v1/calls?user_id=me", 422),
        ("/v1/calls/none", 422),
        ("/v1/events", 422),
        (f"/v1/calls/{UUID(int=4711)}", 404),
        ("/v1/dashboards/pg_roles", 404),
    ],
)
async def test_bad_questions_get_a_clear_answer(path: str, status: int, door: Door) -> None:
    reply = await door.get(path, await door.key("auditor", door.bench.tenant))
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["detail"]


async def test_without_a_good_key_nobody_reads(door: Door) -> None:
    assert (await door.get("/v1/calls", None)).status_code == 401
    assert (await door.get("/v1/calls", "guess")).status_code == 401
    secret = await door.key("auditor", door.bench.tenant)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    revoked = {"type": "key.revoked", "key_id": door.control.state.keys[digest].key_id}
    await door.bench.redis_as("operator").xadd(CONTROL, {"data": orjson.dumps(revoked)})
    assert (await door.get("/v1/calls", secret)).status_code == 401
