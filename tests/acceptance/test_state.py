"""`skeldir state`: what policy saw at a moment that is over."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
from redis import Redis

from tests.stack import Stack, eventually


def now_ms(log: Redis) -> int:
    """The log's clock."""
    reading: Any = log.time()
    return int(reading[0]) * 1000 + int(reading[1]) // 1000


def test_limits_breakers_and_switches_of_a_moment(stack: Stack) -> None:
    tenant, user = str(uuid4()), str(uuid4())
    key = stack.key(tenant, user)
    scope = {"tenant_id": tenant, "user_id": user}
    with stack.redis() as log:

        def order(**event: Any) -> int:
            entry: Any = log.xadd("skeldir:control", {"data": json.dumps({"reason": "drill", "actor": "ann", **event})})
            return int(entry.split(b"-")[0])

        order(type="limits.set", scope=scope, monthly_cents=7)
        order(type="kill_switch.engaged", scope={**scope, "task_type": "explanation"})
        of_tenant, investigations = {"tenant_id": tenant}, {"tenant_id": tenant, "task_type": "investigation"}
        order(type="quota.set", scope=of_tenant, window="day", cents=2.5, mode="shadow")
        order(type="quota.set", scope=investigations, max_in_flight=3)
        order(type="bounds.set", scope=investigations, max_cost_cents=30)
        order(type="downgrade.set", scope=of_tenant, model="openai:gpt-4o", to="stub:model", window="month", percent=80)
        for _ in range(3):
            stack.run(key=key, prompt={"raise_error": "boom"})
        last = stack.run(key=key)
        assert last["blocked_reason"] == "breaker_open"
        then_ms = order(type="shutoff.engaged", scope=scope, minutes=5)
        eventually(lambda: now_ms(log) > then_ms, "the next order is of a later millisecond")
        order(type="limits.set", scope=scope, monthly_cents=8)
        order(type="kill_switch.released", scope={**scope, "task_type": "explanation"})

    def in_the_books() -> bool:
        with psycopg.connect(stack.ready["admin_database_url"]) as connection:
            query = "SELECT type, count(*) FROM events WHERE tenant_id = %s GROUP BY type"
            found: dict[str, int] = dict(connection.execute(query, (tenant,)).fetchall())
        return found.get("kill_switch.released") == 1 and found.get("breaker.changed") == 3

    eventually(in_the_books, "the orders and the breaker are in the books")
    at = datetime.fromtimestamp(then_ms / 1000, UTC).isoformat()
    said = json.loads(stack.cli("state", "--at", at, "--tenant", tenant, "--json").stdout)
    assert [(one["user_id"], one["monthly_cents"]) for one in said["limits"]] == [(user, "7")]
    assert [one["scope"] for one in said["kill_switches"]] == [{**scope, "task_type": "explanation"}]
    assert [(one["user_id"], one["reason"], one["actor"]) for one in said["shutoffs"]] == [(user, "drill", "ann")]
    assert [(one["user_id"], one["state"], one["failures"]) for one in said["breakers"]] == [(user, "open", 3)]
    assert [(one["scope"], one["unit"], one["window"], one["limit"], one["mode"]) for one in said["quotas"]] == [
        ({}, "cents", "day", "2.5", "shadow"),
        ({"task_type": "investigation"}, "in_flight", None, 3, "enforce"),
    ]
    assert [(one["task_type"], one["max_cost_cents"]) for one in said["bounds"]] == [("investigation", "30")]
    assert [(one["model"], one["to"], one["from"]) for one in said["downgrades"]] == [
        ("openai:gpt-4o", "stub:model", "80 % of the month")
    ]
    assert "--at" in stack.refused("state", "--at", "yesterday")
    now = json.loads(stack.cli("state", "--tenant", tenant, "--json").stdout)
    assert ([one["monthly_cents"] for one in now["limits"]], now["kill_switches"]) == (["8"], [])
    assert "kill switches" in stack.cli("state", "--at", at, "--tenant", tenant).stdout
