"""From outside: another language's client, psql, bad input, dashboards, crashes of each service."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from skeldir.embedded.postgres import BIN
from tests.stack import Stack, eventually

HEADERS = {
    "01_monthly_spend": "tenant_id,user_id,month,total_cost_cents,total_calls",
    "02_cache_hit_rate": "endpoint,total_calls,cache_hits,cache_hit_rate_pct",
    "03_breaker_shutoff_state": (
        "state_type,tenant_id,user_id,state_key,state_value,failure_count,opened_at,updated_at"
    ),
    "04_provider_cost_latency_distribution": (
        "provider,model,status,call_count,total_cost_cents,min_latency_ms,avg_latency_ms,max_latency_ms,"
        "p50_latency_ms,p95_latency_ms,p99_latency_ms"
    ),
}


def inbox_task(stack: Stack, **fields: object) -> dict[str, object]:
    known = {"tenant_id": stack.ready["tenant_id"], "user_id": str(uuid4()), "request_id": str(uuid4())}
    return {**known, "task_type": "route", "prompt": {"text": "hi"}, "max_cost_cents": 3, **fields}


def test_a_task_by_raw_redis_protocol_is_readable_by_psql(stack: Stack) -> None:
    """What any language's client sends, byte by byte, in the producer's own role."""
    task = inbox_task(stack)
    stack.redis().xadd("skeldir:inbox", {"data": json.dumps(task)})
    query = f"SELECT status FROM llm_api_calls WHERE request_id = '{task['request_id']}'"

    def psql(tenant: object, user: object) -> str:
        settings = f"SET app.current_tenant_id = '{tenant}'; SET app.current_user_id = '{user}';"
        command = [str(BIN / "psql"), stack.ready["database_url"], "-qAt", "-c", f"{settings} {query}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    eventually(lambda: psql(task["tenant_id"], task["user_id"]) == "success", "the row")
    assert psql(task["tenant_id"], uuid4()) == ""
    assert psql(uuid4(), task["user_id"]) == ""
    assert psql("", "") == ""


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"data": "{"}, b"not JSON"),
        ({"other": "x"}, b"no field `data`"),
        ({"data": "[1]"}, b"not a JSON object"),
        ({"data": json.dumps({"task_type": "route", "prompt": {}})}, b"tenant_id and user_id are required"),
    ],
)
def test_what_is_no_task_becomes_a_dead_letter(stack: Stack, entry: dict[str, str], complaint: bytes) -> None:
    entry_id = stack.redis().xadd("skeldir:inbox", entry)

    def letter() -> dict[bytes, bytes] | None:
        letters = stack.redis().xrevrange("skeldir:dead-letters", count=100)
        return next((fields for _, fields in letters if fields[b"entry_id"] == entry_id), None)

    found = eventually(letter, "a dead letter")
    assert found[b"origin"] == b"skeldir:inbox" and complaint in found[b"reason"]
    assert stack.run()["status"] == "success"


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("tenant_id", "not-a-uuid", b"tenant_id"),
        ("task_type", "poem", b"task_type"),
        ("max_cost_cents", -1, b"not negative"),
        ("prompt", "text", b"prompt"),
        ("prompt", {"cache_watermark": -1}, b"cache_watermark"),
        ("surprise", 1, b"surprise"),
    ],
)
def test_a_task_with_a_wrong_field_says_which(stack: Stack, field: str, value: object, complaint: bytes) -> None:
    entry_id = stack.redis().xadd("skeldir:inbox", {"data": json.dumps(inbox_task(stack, **{field: value}))})

    def reason() -> bytes | None:
        letters = stack.redis().xrevrange("skeldir:dead-letters", count=100)
        return next((fields[b"reason"] for _, fields in letters if fields[b"entry_id"] == entry_id), None)

    assert complaint in eventually(reason, "a dead letter")
    body = {name: item for name, item in inbox_task(stack, **{field: value}).items() if name != "user_id"}
    reply = stack.post("/v1/tasks", body)
    assert reply.status_code == 422 and complaint.decode() in reply.json()["detail"], reply.text
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "order",
    [
        {"type": "kill_switch.engaged"},
        {"type": "unheard.of", "reason": "x"},
        {"type": "kill_switch.engaged", "reason": "x", "scope": {"provider": "openai", "model": "stub:m"}},
        {"type": "kill_switch.engaged", "reason": "x", "scope": {"user_id": str(uuid4())}},
        {"type": "shutoff.engaged", "reason": "x", "scope": {"tenant_id": "nobody"}},
        {"type": "limits.set", "scope": {"tenant_id": str(uuid4())}, "hourly_cents": -5},
    ],
)
def test_an_order_that_is_none_becomes_a_dead_letter_and_stops_nobody(stack: Stack, order: dict[str, object]) -> None:
    entry_id = stack.redis().xadd("skeldir:control", {"data": json.dumps(order)})

    def letter() -> bool:
        letters = stack.redis().xrevrange("skeldir:dead-letters", count=100)
        return any(fields[b"entry_id"] == entry_id for _, fields in letters)

    eventually(letter, "a dead letter")
    reply = stack.post("/v1/control", order, key=stack.ready["operator_key"])
    assert reply.status_code == 422 and reply.json()["detail"]
    assert stack.run()["status"] == "success"


@pytest.mark.parametrize("until", ["2026-01-01T00:00:00Z", 5])
@pytest.mark.parametrize("kind", ["kill_switch.engaged", "shutoff.engaged"])
def test_an_order_that_would_stop_nothing_is_refused(stack: Stack, kind: str, until: object) -> None:
    scope = {"tenant_id": str(uuid4()), "user_id": str(uuid4())}
    order = {"type": kind, "scope": scope, "reason": "x", "until": until}
    reply = stack.post("/v1/control", order, key=stack.ready["operator_key"])
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_control")
    assert "would stop nothing" in reply.json()["detail"]


def test_a_key_opens_only_its_own_doors(stack: Stack) -> None:
    tenant, user = stack.ready["tenant_id"], stack.ready["user_id"]
    task = {"task_type": "route", "prompt": {}}
    assert stack.post("/v1/tasks", task, key="sk-skeldir-wrong").status_code == 401
    assert stack.post("/v1/tasks", task, key=stack.ready["operator_key"]).status_code == 403
    assert stack.post("/v1/control", {}, key=stack.ready["api_key"]).status_code == 403
    assert stack.post("/v1/tasks", {**task, "user_id": str(uuid4())}).status_code == 403
    assert stack.post("/v1/tasks", {**task, "tenant_id": str(uuid4())}).status_code == 403
    assert stack.post("/v1/tasks", task, key=stack.key(tenant)).status_code == 422
    made = json.loads(
        stack.cli("key", "create", "--tenant", tenant, "--user", user, "--role", "producer", "--json").stdout
    )
    eventually(lambda: stack.post("/v1/tasks", task, key=made["key"]).status_code == 202, "the key works")
    stack.cli("key", "revoke", made["key_id"])
    eventually(lambda: stack.post("/v1/tasks", task, key=made["key"]).status_code == 401, "the key is refused", 10)


def test_bodies_are_bounded(stack: Stack) -> None:
    assert stack.post("/v1/tasks", b"x" * 300_000).status_code == 413
    deep = b'{"task_type": "route", "prompt": ' + b'{"a":' * 60 + b"1" + b"}" * 60 + b"}"
    reply = stack.post("/v1/tasks", deep)
    assert (reply.status_code, "nested deeper" in reply.json()["detail"]) == (422, True)
    assert stack.get("/v1/nowhere").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["kill-switch", "engage"], "--reason"),
        (["kill-switch", "engage", "--user", str(uuid4()), "--reason", "x"], "tenant_id"),
        (["kill-switch", "engage", "--provider", "openai", "--model", "stub:m", "--reason", "x"], "conflicting scopes"),
        (["kill-switch", "engage", "--tenant", "nobody", "--reason", "x"], "UUID"),
        (["limits", "set", "--tenant", str(uuid4())], "at least one"),
        (["limits", "set", "--tenant", str(uuid4()), "--hourly-cents", "-1"], "not negative"),
        (["limits", "set", "--tenant", str(uuid4()), "--max-in-flight", "1" + 25 * "0"], "64-bit"),
        (["limits", "set", "--tenant", str(uuid4()), "--calls", "1"], "per window"),
        (["limits", "set", "--tenant", str(uuid4()), "--calls", "1", "--per", "week"], "minute"),
        (["limits", "set", "--tenant", str(uuid4()), "--per", "day", "--hourly-cents", "1"], "--cents N --per hour"),
        (["limits", "unset", "--tenant", str(uuid4()), "--limit", "words"], "max-in-flight"),
        (
            [
                "shutoff",
                "engage",
                "--tenant",
                str(uuid4()),
                "--user",
                str(uuid4()),
                "--minutes",
                "nan",
                "--reason",
                "x",
            ],
            "minutes is a number",
        ),
        (["kill-switch", "engage", "--minutes", "inf", "--reason", "x"], "--minutes"),
        (["key", "create", "--tenant", str(uuid4()), "--role", "producer", "--days", "1e9"], "--days"),
        (["key", "rotate", "key_nobody", "--overlap-minutes", "1e15"], "--overlap-minutes"),
        (["ledger", "verify", "--history", "--pending-minutes", "inf"], "--pending-minutes"),
        (["submit", "route", "--prompt", "{}", "--wait", "inf"], "--wait"),
        (["submit", "poem", "--prompt", "{}"], "task_type"),
        (["submit", "route", "--prompt", "{"], "--prompt"),
        (["submit", "route", "--prompt", "{}", "--request-id", ""], "request_id"),
        (["tail", "--request", ""], "--request"),
        (["kill-switch"], "needs a command"),
        (["kill-switch", "engage", "--tenant", str(uuid4()), "--minutes", "0", "--reason", "x"], "stop nothing"),
        (["migrate", "--down", ""], "--down is a revision"),
        (["serve", "nothing"], "nothing"),
        (["migrate", "--down", "no-such-revision"], "no-such-revision"),
        (["dead-letters", "show", "x"], "an id looks like"),
        (["dead-letters", "retry", 30 * "9" + "-0"], "an id looks like"),
        (["key", "revoke", "key_nobody"], "no key"),
        (["unheard-of"], "unheard-of"),
    ],
)
def test_a_wrong_command_says_so_in_one_line(stack: Stack, arguments: list[str], complaint: str) -> None:
    assert complaint in stack.refused(*arguments)


def test_a_command_names_a_model_beside_the_prompt(stack: Stack) -> None:
    task = ("submit", "route", "--wait", "30", "--json", "--prompt", '{"text": "x", "model": "stub:prompts"}')
    assert json.loads(stack.cli(*task).stdout)["model"] == "prompts"
    assert json.loads(stack.cli(*task, "--model", "stub:mine").stdout)["model"] == "mine"


def test_a_wrong_command_ends_with_code_2_and_no_traceback(stack: Stack) -> None:
    """The same once more as a person types it."""
    done = stack.process("key", "revoke", "key_nobody")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "skeldir: there is no key key_nobody\n"


def test_dashboards_are_exported_and_checked(stack: Stack, tmp_path: Path) -> None:
    stack.call(stack.run(prompt={"simulated_cost_cents": 2}))
    user = ("--tenant", stack.ready["tenant_id"], "--user", stack.ready["user_id"])
    stack.call(stack.run(prompt={"raise_error": True}))
    eventually(
        lambda: stack.cli("dashboards", "export", *user, "--out", str(tmp_path), check=False).returncode == 0, "rows"
    )
    for name, header in HEADERS.items():
        with (tmp_path / f"{name}.csv").open() as text:
            rows = list(csv.reader(text))
        assert ",".join(rows[0]) == header
        assert len(rows) > 1
    nobody = ("--tenant", stack.ready["tenant_id"], "--user", str(uuid4()))
    done = stack.cli("dashboards", "export", *nobody, "--out", str(tmp_path), check=False)
    assert done.returncode != 0 and "no row" in done.stderr


def test_the_books_can_be_rebuilt_and_verified(stack: Stack) -> None:
    tenant, user = stack.ready["tenant_id"], str(uuid4())  # nothing else of whom is on its way to the books
    stack.call(stack.run(key=stack.key(tenant, user), prompt={"simulated_cost_cents": 2}), tenant, user)
    query = "SELECT * FROM llm_monthly_costs"
    before = stack.rows(query, tenant, user)
    assert before
    stack.cli("ledger", "rebuild")
    assert stack.rows(query, tenant, user) == before
    stack.cli("ledger", "verify")


@pytest.mark.timeout(300)
def test_services_killed_among_a_thousand_tasks_lose_none(stack: Stack) -> None:
    users = [str(uuid4()) for _ in range(20)]
    log = stack.redis()
    tasks = [inbox_task(stack, user_id=users[n % 20], prompt={"simulated_delay_ms": 5}) for n in range(1000)]
    kills = {200: "gateway", 400: "policy", 600: "executor", 800: "ledger"}
    ended = "SELECT request_id, status FROM llm_api_calls WHERE status <> 'pending'"
    tenant = stack.ready["tenant_id"]

    def of_users(query: str) -> list[dict[str, Any]]:
        return [row for user in users for row in stack.rows(query, tenant, user)]

    def enough(number: int) -> bool:
        return len(of_users(ended)) >= number

    for number, task in enumerate(tasks):
        log.xadd("skeldir:inbox", {"data": json.dumps(task)})
        if number in kills:  # in the midst of the work: of what was put in before, half has ended
            eventually(partial(enough, number // 2), "half of them", 100)
            os.kill(stack.pid(kills[number]), signal.SIGKILL)
    eventually(partial(enough, 1000), "a thousand ends", 100)
    assert sorted(row["request_id"] for row in of_users(ended)) == sorted(str(task["request_id"]) for task in tasks)
    subjects = [
        row["subject"]
        for row in of_users(
            "SELECT subject FROM events WHERE type IN ('task.succeeded', 'task.failed', 'task.blocked')"
        )
    ]
    assert len(subjects) == len(set(subjects)) == 1000
    made = [row["subject"] for row in of_users("SELECT subject FROM events WHERE type = 'attempt.started'")]
    assert len(made) == len(set(made)), "no task was attempted twice"
    for name in ("gateway", "ledger"):
        ready = partial(stack.get, "/readyz", base=f"{name}_url")
        eventually(lambda ready=ready: ready().status_code == 200, f"{name} is back")  # type: ignore[misc]
    assert stack.run()["status"] == "success", "policy and executor, too"
    stack.cli("ledger", "verify")


def test_times_are_utc_whatever_the_session_says(stack: Stack) -> None:
    """In the replaced system hours were printed in the session's time zone, with a Z."""
    stack.call(stack.run(prompt={"simulated_cost_cents": 1}))
    query = "SELECT state_key, updated_at FROM dashboard_breaker_shutoff_state WHERE state_type = 'hourly_shutoff'"
    query += " ORDER BY state_key"
    tenant, user = stack.ready["tenant_id"], stack.ready["user_id"]
    here = eventually(lambda: stack.rows(query, tenant, user), "the hour")
    tokyo = stack.rows(query, tenant, user, timezone="Asia/Tokyo")
    assert here[0]["state_key"] == tokyo[0]["state_key"] and here[0]["state_key"].endswith(":00:00Z")


def test_nothing_of_a_prompt_or_a_key_is_in_the_logs(stack: Stack) -> None:
    secret = f"a secret of {uuid4()}"
    for prompt in ({"text": secret}, {"text": secret, "raise_error": True}, {"text": secret, "kill_switch": True}):
        stack.run(prompt=prompt)
    stack.redis().xadd("skeldir:inbox", {"data": json.dumps({"prompt": secret})})
    stack.run()
    said = "".join(file.read_text() for file in (stack.data / "logs").glob("*.log"))
    assert said and secret not in said
    assert stack.ready["api_key"] not in said and stack.ready["operator_key"] not in said


def test_the_breakdown_by_model_is_kept_current(stack: Stack) -> None:
    """In the replaced system it stayed as it was at the first call."""
    tenant, user = stack.ready["tenant_id"], str(uuid4())
    key = stack.key(tenant, user)
    for model, cents in (("stub:a", 1), ("stub:b", 2), ("stub:a", 3)):
        stack.call(stack.run(key=key, prompt={"model": model, "simulated_cost_cents": cents}), tenant, user)
    (month,) = stack.rows("SELECT * FROM llm_monthly_costs", tenant, user)
    costs = {model: (part["calls"], part["cost_cents"]) for model, part in month["model_breakdown"].items()}
    assert costs == {"stub:a": (2, 4), "stub:b": (1, 2)}, month
    assert (month["total_calls"], month["total_cost_cents"]) == (3, 6)
