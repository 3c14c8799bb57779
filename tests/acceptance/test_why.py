"""`skeldir why`: what an operator asks on a terminal when somebody says that a call was refused."""

from __future__ import annotations

import json
import secrets
from uuid import uuid4

import psycopg

from tests.stack import Stack, eventually

ALLOWED = ["task.submitted", "task.allowed", "attempt.started", "task.succeeded", "reservation.ended"]


def booked(stack: Stack, request: str, **prompt: object) -> None:
    """Submit it, wait for its end, and until the books have it."""
    task = ("submit", "route", "--prompt", json.dumps({"text": "x", **prompt}), "--request-id", request)
    stack.cli(*task, "--wait", "30", check=False)
    eventually(lambda: stack.cli("why", request, check=False).returncode == 0, f"{request} in the books")


def test_it_says_what_was_decided_and_what_happened(stack: Stack) -> None:
    allowed, blocked = (f"why-{secrets.token_hex(4)}" for _ in range(2))
    booked(stack, allowed)
    booked(stack, blocked, kill_switch=True)
    eventually(lambda: "reservation.ended" in stack.cli("why", allowed).stdout, "the end of its reservation")
    found = json.loads(stack.cli("why", allowed, "--json").stdout)
    assert (found["call"]["status"], found["verdict"]["decision"]) == ("success", "allowed")
    assert [event["type"] for event in found["events"]][:5] == ALLOWED
    said = stack.cli("why", allowed).stdout
    assert "Every rule let it pass" in said and "user, month" in said

    said = stack.cli("why", blocked).stdout
    assert "blocked (provider_kill_switch)" in said and "task.blocked" in said
    task_id = json.loads(stack.cli("why", blocked, "--json").stdout)["call"]["id"]
    assert stack.cli("why", task_id).stdout == said
    looks = "SELECT count(*) FROM read_audit WHERE key_id = 'skeldir why' AND what LIKE %s"
    with psycopg.connect(stack.ready["admin_database_url"]) as books:
        found = books.execute(looks, (f"%{task_id}",)).fetchone()
    assert found is not None and found[0], "who looks across tenants is written down"


def test_what_cannot_be_found_is_one_line(stack: Stack) -> None:
    assert "the books know no request" in stack.refused("why", f"never-{secrets.token_hex(4)}")
    request = f"why-{secrets.token_hex(4)}"
    booked(stack, request)
    assert "the books know no request" in stack.refused("why", request, "--tenant", str(uuid4()))
