"""The step after which a task is durable: once for each request, whoever submits it, and how often."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from uuid import uuid4

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from services.gateway.acceptance import Acceptor
from shared.events.tasks import TaskType, task_id_of
from tests.integration.gateway.conftest import Bench, Gateway, eventually

TASK = {"task_type": "route", "prompt": {"text": "hi"}, "request_id": "once"}


async def test_a_hundred_duplicates_at_once_are_one_task(bench: Bench, gateway: Gateway, key: str) -> None:
    replies = await asyncio.gather(*(gateway.post("/v1/tasks", TASK, key) for _ in range(100)))
    assert [reply.text for reply in replies if reply.status_code != 202] == []
    expected = str(task_id_of(bench.tenant, TaskType.ROUTE, "once"))
    assert {reply.json()["task_id"] for reply in replies} == {expected}
    assert {reply.json()["status"] for reply in replies} == {"pending"}
    (event,) = await bench.tasks(1)
    assert event.subject == expected and event.userid == bench.user


async def test_the_inbox_and_http_are_one_door(bench: Bench, gateway: Gateway, key: str) -> None:
    reply = await gateway.post("/v1/tasks", {**TASK, "max_cost_cents": 1}, key)
    await bench.put(bench.task(request_id="once", max_cost_cents="1.0"), bench.task(request_id="other"))
    events = await bench.tasks(2)
    assert events[0].subject == reply.json()["task_id"]
    assert not await bench.admin.xlen("skeldir:dead-letters")


async def test_all_that_policy_and_executor_need_is_on_the_record(bench: Bench, gateway: Gateway, key: str) -> None:
    reply = await gateway.post(
        "/v1/tasks", {**TASK, "correlation_id": "c-1"}, key, traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    )
    (event,) = await bench.tasks(1)
    record = await bench.admin.hgetall(bench.partition().task(event.data.task.task_id))  # type: ignore[attr-defined]
    assert {name.decode(): value.decode() for name, value in record.items() if name != b"submitted_ms"} == {
        "fingerprint": event.data.task.fingerprint,  # type: ignore[attr-defined]
        "tenant": str(bench.tenant),
        "user": str(bench.user),
        "request_id": "once",
        "task_type": "route",
        "correlation_id": "c-1",
        "state": "submitted",
    }
    assert event.correlationid == "c-1" and event.traceparent is not None
    assert reply.headers["location"] == f"/v1/tasks/{event.subject}"


async def test_what_goes_wrong_is_logged_with_the_task_that_it_went_wrong_for(
    gateway: Gateway, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: object, **__: object) -> None:
        raise ArithmeticError("nobody foresaw this")

    monkeypatch.setattr(Acceptor, "accept", breaks)
    with capture_logs([merge_contextvars]) as lines:
        reply = await gateway.post("/v1/tasks", {**TASK, "correlation_id": "c-1"}, key)
        unnamed = await gateway.post("/v1/tasks", {**TASK, "request_id": "another"}, key)
    assert (reply.status_code, unnamed.status_code) == (500, 500)
    first, second = [line for line in lines if line["event"] == "request failed"]
    assert first["correlation_id"] == "c-1" and first["task_id"] != second["task_id"]
    assert second.get("correlation_id") != "c-1", "a request's names are not the next one's"


async def test_another_body_or_another_user_is_a_conflict(bench: Bench, gateway: Gateway) -> None:
    key = await bench.key(gateway, user=None)
    mine = {**TASK, "user_id": str(bench.user)}
    assert (await gateway.post("/v1/tasks", mine, key)).status_code == 202
    for other in ({"prompt": {"text": "other"}}, {"max_cost_cents": 2}, {"user_id": str(uuid4())}):
        reply = await gateway.post("/v1/tasks", {**mine, **other}, key)
        assert (reply.status_code, reply.json()["code"]) == (409, "idempotency_conflict"), other
    await bench.tasks(1)


async def test_idempotency_key_stands_for_the_request_id(bench: Bench, gateway: Gateway, key: str) -> None:
    body = {"task_type": "route", "prompt": {"text": "hi"}}
    by_header = await gateway.post("/v1/tasks", body, key, Idempotency_Key="once")
    by_body = await gateway.post("/v1/tasks", TASK, key)
    assert by_header.json()["task_id"] == by_body.json()["task_id"]
    both = await gateway.post("/v1/tasks", TASK, key, Idempotency_Key="another")
    assert (both.status_code, both.json()["code"]) == (422, "two_request_ids")
    long = await gateway.post("/v1/tasks", body, key, Idempotency_Key="x" * 201)
    assert long.status_code == 422 and "200 characters" in long.json()["detail"]


async def test_an_idempotency_key_is_read_as_its_letters_were_written(gateway: Gateway, key: str) -> None:
    body = {"task_type": "route", "prompt": {"text": "hi"}}
    by_body = await gateway.post("/v1/tasks", {**body, "request_id": "Bestellung-ä"}, key)
    sent = {b"Authorization": f"Bearer {key}".encode(), b"Idempotency-Key": "Bestellung-ä".encode()}
    by_header = await gateway.client.post("/v1/tasks", content=json.dumps(body), headers=sent)
    assert by_header.json()["request_id"] == "Bestellung-ä"
    assert by_header.json()["task_id"] == by_body.json()["task_id"], "one request, one task"
    sent[b"Idempotency-Key"] = "Bestellung-ä".encode("latin-1")
    old = await gateway.client.post("/v1/tasks", content=json.dumps(body), headers=sent)
    assert old.json()["task_id"] == by_body.json()["task_id"]


async def test_a_watermark_that_no_number_can_be_is_refused(gateway: Gateway, key: str) -> None:
    body = {"model": "stub:m", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"X_Skeldir_Cache": "on", "X_Skeldir_Cache_Watermark": "9" * 5000}
    reply = await gateway.post("/v1/chat/completions", body, key, **headers)
    assert reply.status_code == 422 and "cache_watermark" in reply.json()["error"]["message"]


async def test_a_full_log_says_so_and_takes_no_more(bench: Bench) -> None:
    async with bench.gateway(max_backlog=3) as gateway:
        key = await bench.key(gateway)
        replies = await asyncio.gather(
            *(gateway.post("/v1/tasks", {**TASK, "request_id": str(n)}, key) for n in range(10))
        )
        assert Counter(reply.status_code for reply in replies) == {202: 3, 503: 7}
        refused = next(reply for reply in replies if reply.status_code == 503)
        assert refused.json()["code"] == "log_full" and int(refused.headers["retry-after"]) >= 1
        await bench.tasks(3)
        known = next(n for n, reply in enumerate(replies) if reply.status_code == 202)
        again = await gateway.post("/v1/tasks", {**TASK, "request_id": str(known)}, key)
        assert again.status_code == 202, "what was accepted is still known"


async def test_decisions_that_nobody_works_off_close_the_door_too(bench: Bench) -> None:
    """Policy takes the tasks; with no executor it is the decisions that pile up."""
    for number in range(3):
        await bench.admin.xadd(bench.partition().decisions, {"n": str(number)})
    async with bench.gateway(max_backlog=3) as gateway:
        refused = await gateway.post("/v1/tasks", TASK, await bench.key(gateway))
    assert (refused.status_code, refused.json()["code"]) == (503, "log_full")


async def test_a_dead_log_is_503_and_what_was_accepted_survives_its_kill(
    bench: Bench, gateway: Gateway, key: str
) -> None:
    accepted = await gateway.post("/v1/tasks", TASK, key)
    assert accepted.status_code == 202
    os.kill(bench.server.pid, signal.SIGKILL)

    async def refused() -> bool:
        reply = await gateway.post("/v1/tasks", {**TASK, "request_id": "lost"}, key)
        return reply.status_code == 503 and "retry-after" in reply.headers

    assert await eventually(refused, "503")
    assert (await gateway.client.get("/healthz")).status_code == 200
    bench.server.start()
    await bench.admin.connection_pool.disconnect()  # the connections of before went with the server
    await gateway.ready()
    shown = await gateway.get(f"/v1/tasks/{accepted.json()['task_id']}", key)
    assert (shown.status_code, shown.json()["status"]) == (200, "pending")
    assert [event.subject for event in await bench.submitted()] == [accepted.json()["task_id"]]
    assert (await gateway.post("/v1/tasks", {**TASK, "request_id": "next"}, key)).status_code == 202
