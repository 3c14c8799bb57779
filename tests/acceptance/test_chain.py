"""Acceptance 1 to 4 and 10: the chain, materialisations, one request one answer, the cache, the stub."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.partitions import partition_for
from shared.settings import Settings
from tests.stack import Stack, eventually, paused

TYPES = ["route", "explanation", "investigation", "budget_optimization"]


@pytest.fixture
def tenant(stack: Stack) -> str:
    """The stack's tenant."""
    found: str = stack.ready["tenant_id"]
    return found


@pytest.fixture
def key(stack: Stack) -> str:
    """A key of the tenant that may act for any of its users."""
    return stack.key(stack.ready["tenant_id"])


@pytest.mark.parametrize("task_type", TYPES)
def test_each_task_type_ends_as_one_row(stack: Stack, task_type: str) -> None:
    trace = {"steps": ["look", "think"]}
    prompt = {"text": "x", "simulated_cost_cents": 1.25, "simulated_reasoning_trace": trace}
    result = stack.run(task_type, prompt=prompt, max_cost_cents=5)
    row = stack.call(result)
    assert (row["status"], row["provider"], row["provider_attempted"]) == ("success", "stub", True)
    assert row["endpoint"] == f"app.tasks.llm.{task_type}"
    assert row["response_metadata_ref"]["boundary_id"] == "b07_p3_aisuite_chokepoint"
    assert isinstance(row["reasoning_trace_ref"], dict)
    assert stack.readable(result)["reasoning_trace_ref"] == trace
    assert float(row["cost_cents"]) == result["usage"]["cost_cents"] == 1.25


def test_materialisations_appear_once_and_only_for_a_success(stack: Stack, tenant: str, key: str) -> None:
    user = str(uuid4())
    ids = {}
    for task_type in ("investigation", "budget_optimization"):
        ids[task_type] = stack.run(task_type, key=key, user_id=user, prompt={"simulated_cost_cents": 2})
        stack.call(ids[task_type], tenant, user)
        for prompt in ({"raise_error": True}, {"kill_switch": True}):
            stack.call(stack.run(task_type, key=key, user_id=user, prompt=prompt), tenant, user)
    found = stack.rows("SELECT * FROM investigations", tenant, user)
    assert [(row["query"], float(row["cost_cents"])) for row in found] == [
        (f"provider:{ids['investigation']['request_id']}", 2.0)
    ]
    jobs = stack.rows("SELECT recommendations->>'request_id' AS id FROM budget_optimization_jobs", tenant, user)
    assert [row["id"] for row in jobs] == [ids["budget_optimization"]["request_id"]]


def test_the_same_request_again_gives_the_same_answer(stack: Stack, tenant: str, key: str) -> None:
    user, request_id = str(uuid4()), str(uuid4())
    fields: dict[str, Any] = {"key": key, "user_id": user, "request_id": request_id}
    first, second = [stack.run(**fields, prompt={"simulated_cost_cents": 1}) for _ in range(2)]
    assert first == second
    stack.call(first, tenant, user)
    attempts = stack.rows("SELECT id FROM events WHERE type = 'attempt.started'", tenant, user)
    assert len(attempts) == 1


def test_a_hundred_duplicates_at_once_make_one_call(stack: Stack, tenant: str, key: str) -> None:
    """In the replaced system a duplicate in flight was told `pending` as its final answer."""
    user, request_id = str(uuid4()), str(uuid4())
    prompt = {"simulated_delay_ms": 500, "simulated_cost_cents": 1}

    def submit(_: int) -> dict[str, Any]:
        return stack.run(key=key, user_id=user, request_id=request_id, prompt=prompt)

    with ThreadPoolExecutor(100) as pool:
        results = list(pool.map(submit, range(100)))
    assert {one["status"] for one in results} == {"success"}
    assert len({one["api_call_id"] for one in results}) == 1
    stack.call(results[0], tenant, user)
    assert len(stack.rows("SELECT id FROM events WHERE type = 'attempt.started'", tenant, user)) == 1
    assert len(stack.rows("SELECT id FROM llm_api_calls", tenant, user)) == 1


def test_the_same_request_id_with_another_body_or_user_is_a_conflict(stack: Stack, tenant: str, key: str) -> None:
    """In the replaced system it got the old answer, with another user that user's text."""
    user, request_id = str(uuid4()), str(uuid4())
    stack.run(key=key, user_id=user, request_id=request_id, prompt={"text": "mine"})
    body = {"task_type": "route", "request_id": request_id}
    for other in (
        {**body, "user_id": user, "prompt": {"text": "another"}},
        {**body, "user_id": str(uuid4()), "prompt": {"text": "mine"}},
    ):
        reply = stack.post("/v1/tasks", other, key=key, Prefer="wait=5")
        assert (reply.status_code, reply.json()["code"]) == (409, "idempotency_conflict")
    entry = {**body, "tenant_id": tenant, "user_id": user, "prompt": {"text": "by inbox"}}
    stack.redis().xadd("skeldir:inbox", {"data": json.dumps(entry)})

    def letter() -> bool:
        letters = stack.redis().xrange("skeldir:dead-letters")
        return any(
            request_id.encode() in f.get(b"data", b"") and b"idempotency_conflict" in f.get(b"reason", b"")
            for _, f in letters
        )

    eventually(letter, "a dead letter")


def test_a_request_that_the_log_has_forgotten_is_not_run_again(stack: Stack, tenant: str, key: str) -> None:
    """Its record leaves the log a day after its end; here somebody takes it out."""
    user, request_id = str(uuid4()), str(uuid4())
    about = {"key": key, "user_id": user, "request_id": request_id}
    first = stack.run(**about, prompt={"text": "mine", "simulated_cost_cents": 1})
    stack.call(first, tenant, user)
    record = partition_for(UUID(tenant), Settings().partitions).task(UUID(first["task_id"]))
    assert stack.redis().delete(record) == 1
    assert stack.run(**about, prompt={"text": "mine", "simulated_cost_cents": 1}) == first
    other = {"task_type": "route", "request_id": request_id, "user_id": user, "prompt": {"text": "another"}}
    assert stack.post("/v1/tasks", other, key=key).status_code == 409
    assert not stack.redis().exists(record), "nothing was claimed, and so nothing was called"


def cached(watermark: int = 1, **more: Any) -> dict[str, Any]:
    prompt = {"text": "q", "cache_enabled": True, "cache_watermark": watermark, "simulated_cost_cents": 2, **more}
    return {"prompt": prompt, "max_cost_cents": 2}


def test_a_cached_answer_costs_nothing_and_releases(stack: Stack, tenant: str, key: str) -> None:
    user = str(uuid4())
    first, second = [stack.run("explanation", key=key, user_id=user, **cached()) for _ in range(2)]
    assert (first["was_cached"], second["was_cached"]) == (False, True)
    assert (second["provider_attempted"], second["usage"]["cost_cents"]) == (False, 0)
    assert second["output_text"] == first["output_text"]
    row = stack.call(second, tenant, user)
    assert (row["was_cached"], row["provider_attempted"], float(row["cost_cents"])) == (True, False, 0.0)
    query = f"SELECT state FROM llm_budget_reservations WHERE api_call_id = '{second['task_id']}'"
    eventually(lambda: stack.rows(query, tenant, user)[0]["state"] == "released", "the release")


def test_another_watermark_user_or_tenant_misses(stack: Stack, key: str) -> None:
    user = str(uuid4())
    stack.run(key=key, user_id=user, **cached())
    assert not stack.run(key=key, user_id=user, **cached(2))["was_cached"]
    assert not stack.run(key=key, user_id=str(uuid4()), **cached())["was_cached"]
    other_tenant = stack.key(str(uuid4()))
    assert not stack.run(key=other_tenant, user_id=user, **cached())["was_cached"]


def test_an_older_watermark_does_not_push_out_a_newer_answer(stack: Stack, key: str) -> None:
    user = str(uuid4())
    stack.run(key=key, user_id=user, **cached(5))
    assert not stack.run(key=key, user_id=user, **cached(4))["was_cached"]
    assert stack.run(key=key, user_id=user, **cached(5))["was_cached"]


def test_without_cache_enabled_nothing_is_read_or_written(stack: Stack, key: str) -> None:
    user = str(uuid4())
    plain: dict[str, Any] = {"prompt": {"text": "q", "cache_watermark": 1}}
    for _ in range(2):
        assert not stack.run(key=key, user_id=user, **plain)["was_cached"]
    assert not stack.run(key=key, user_id=user, **cached())["was_cached"]


def test_ten_identical_at_once_make_one_call(stack: Stack, key: str) -> None:
    user = str(uuid4())
    with ThreadPoolExecutor(10) as pool:
        question = cached(1, simulated_delay_ms=300)
        results = list(pool.map(lambda _: stack.run(key=key, user_id=user, **question), range(10)))
    assert sum(not one["was_cached"] for one in results) == 1


def test_the_stub_is_deterministic_and_honours_its_fields(stack: Stack) -> None:
    one, two = [stack.run(prompt={"text": "same"}) for _ in range(2)]
    assert (one["output_text"], one["usage"]["input_tokens"]) == (two["output_text"], two["usage"]["input_tokens"])
    told = stack.run(prompt={"simulated_output_text": "as told", "simulated_delay_ms": 120, "model": "stub:slow"})
    assert (told["output_text"], told["model"], told["usage"]["latency_ms"] >= 100) == ("as told", "slow", True)


def test_a_nul_byte_and_a_plain_string_trace_are_stored(stack: Stack) -> None:
    """In the replaced system these left stuck or contradictory rows."""
    prompt = {"simulated_output_text": "a\u0000b", "simulated_reasoning_trace": "because", "simulated_cost_cents": 3}
    result = stack.run("investigation", prompt=prompt)
    row = stack.call(result)
    assert (row["status"], float(row["cost_cents"])) == ("success", 3.0)
    found = stack.readable(result)
    assert (found["output_text"], found["reasoning_trace_ref"]) == ("a\ufffdb", {"text": "because"})


def test_a_pending_task_can_be_looked_at(stack: Stack) -> None:
    body = {"task_type": "route", "request_id": str(uuid4()), "prompt": {}}
    with paused(stack.pid("executor")):
        reply = stack.post("/v1/tasks", body)
        assert (reply.status_code, reply.json()["status"]) == (202, "pending")
        path = f"/v1/tasks/{reply.json()['task_id']}"
        assert stack.get(path).json()["status"] == "pending"
    eventually(lambda: stack.get(path).json()["status"] == "success", "the result")
    assert stack.get(path, key=stack.key(str(uuid4()))).status_code == 404
    tenants = stack.key(stack.ready["tenant_id"])
    assert stack.get(f"{path}?user_id={stack.ready['user_id']}", key=tenants).status_code == 200
    assert stack.get(f"{path}?user_id={uuid4()}", key=tenants).status_code == 404, "another user's"
    assert stack.get(f"{path}?user_id=me", key=tenants).json()["code"] == "invalid_user"


def test_events_of_a_task_stream_as_they_happen(stack: Stack) -> None:
    body = {"task_type": "route", "request_id": str(uuid4()), "prompt": {"simulated_delay_ms": 300, "text": "secret"}}
    task_id = stack.post("/v1/tasks", body).json()["task_id"]
    said = stack.get(f"/v1/tasks/{task_id}/events").text
    types = [line.removeprefix("event: ") for line in said.splitlines() if line.startswith("event: ")]
    assert types[-1] == "task.succeeded" and {"task.submitted", "task.allowed", "attempt.started"} <= set(types)
    assert "secret" not in said
