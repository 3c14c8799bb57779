"""`skeldir replay` on what a running system has recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from tests.stack import Stack, eventually


def replayed(stack: Stack, folder: Path, limits: str, *arguments: str, name: str = "limits.yaml") -> dict[str, Any]:
    """What it says, in JSON."""
    (folder / name).write_text(limits)
    found: dict[str, Any] = json.loads(stack.cli("replay", "--limits", str(folder / name), "--json", *arguments).stdout)
    return found


def of_tenant(report: dict[str, Any], tenant: str) -> dict[str, Any]:
    row: dict[str, Any] = next(one for one in report["tenants"] if one["tenant_id"] == tenant)
    return row


def test_recorded_traffic_is_decided_again(stack: Stack, tmp_path: Path) -> None:
    tenant, user = str(uuid4()), str(uuid4())
    key = stack.key(tenant, user)
    since = stack.rows("SELECT now() AS now", None, None)[0]["now"].isoformat()
    costs = [stack.run(key=key, prompt={"simulated_cost_cents": 2})["usage"]["cost_cents"] for _ in range(3)]
    assert [float(cost) for cost in costs] == [2, 2, 2]
    stack.run(key=key, prompt={"simulated_cost_cents": 2, "kill_switch": True})

    def in_the_books() -> bool:
        with psycopg.connect(stack.ready["admin_database_url"]) as connection:
            query = "SELECT count(*) FROM events WHERE tenant_id = %s AND type = ANY (%s)"
            (count,) = connection.execute(query, (tenant, ["reservation.ended", "task.blocked"])).fetchone() or (0,)
        return bool(count == 4)

    eventually(in_the_books, "the ends are in the books")
    same = replayed(stack, tmp_path, "")
    assert not [one for one in same["changes"] if one["tenant_id"] == tenant]
    assert of_tenant(same, tenant)["recorded_cents"] == of_tenant(same, tenant)["replayed_cents"] == "6"
    limits = json.dumps({"limits": [{"scope": {"tenant": tenant}, "monthly_cents": 5}]})
    other = replayed(stack, tmp_path, limits, "--since", since, name="limits.json")
    (change,) = [one for one in other["changes"] if one["tenant_id"] == tenant]
    assert (change["before"], change["after"], change["decisions"]) == ("allowed", "monthly_cap_exceeded", 1)
    assert (change["recorded_cents"], change["estimated_cents"]) == ("2", "0")
    assert of_tenant(other, tenant) | {"tenant_id": ""} == {
        "tenant_id": "", "decisions": 4, "allowed_before": 3, "allowed_after": 2, "recorded_cents": "6",
        "recorded_held_cents": "0", "replayed_cents": "4", "replayed_held_cents": "0", "estimated_cents": "0",
    }  # fmt: skip


def test_what_cannot_be_used_is_one_line(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text("settings: {lease_ttl_ms: 5}")
    (tmp_path / "sound.toml").write_text("[settings]\nmonthly_cap_cents = 1")
    (tmp_path / "broken.json").write_text("{")
    assert "lease_ttl_ms" in stack.refused("replay", "--limits", str(tmp_path / "limits.yaml"))
    assert "broken.json cannot be read" in stack.refused("replay", "--limits", str(tmp_path / "broken.json"))
    assert "limits.txt" in stack.refused("replay", "--limits", str(tmp_path / "limits.txt"))
    assert "--since" in stack.refused("replay", "--limits", str(tmp_path / "sound.toml"), "--since", "soon")
    turned = ("--since", "2026-02-01", "--until", "2026-01-01")
    assert "is not before" in stack.refused("replay", "--limits", str(tmp_path / "sound.toml"), *turned)
