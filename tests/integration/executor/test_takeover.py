"""Executors die, pause and lose their connections: every task ends once, and the truth is told about the money."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.executor.journal import GROUP
from shared.events.outcomes import AttemptResolved, DecisionExpired, TaskFailed, TaskSucceeded
from shared.money import from_cents
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedValkey
from tests.integration.executor.conftest import TWO_LIVE, Bench, Gate, until

LONG_IDLE_MS = 3000
"""After such a silence work is taken from who lives: what is kept young is so through a machine that stands still."""


async def test_a_crash_in_mid_call_ends_as_uncertain(bench: Bench) -> None:
    gate = Gate()
    event = await bench.allow()
    async with bench.executor({"stub": gate}, name="dies") as dies:
        await until(lambda: bool(gate.calls))
        await dies.crash()
    gate.open()
    async with bench.executor({"stub": gate}, name="heir"):
        end = await bench.end(TaskFailed)
    assert (end.reason, end.spend, end.provider_attempted) == ("attempt_uncertain", "uncertain", True)
    assert not end.counts_for_breaker and "dies" in end.detail
    assert len(gate.calls) == 1, "without leave of the task nothing is called twice"
    result = await bench.result(event)
    assert (result["status"], result["failure_reason"], result["provider_attempted"]) == (
        "failed",
        "attempt_uncertain",
        True,
    )
    assert await bench.pending() == 0


async def test_a_lost_attempt_is_decided_again_if_the_task_says_that_it_is_safe(bench: Bench) -> None:
    """Its reservation stays held; the next attempt needs one of its own, so it is policy that says yes."""
    gate = Gate()
    event = await bench.allow(retry_safe=True)
    async with bench.executor({"stub": gate}, name="dies") as dies:
        await until(lambda: bool(gate.calls))
        await dies.crash()
    async with bench.executor({"stub": gate}, name="heir"):
        end = await bench.end(DecisionExpired)
    assert (end.decision_id, end.spend) == (event.id, "uncertain")
    record = await bench.record(event)
    assert (record["state"], record["lost"]) == ("expired", "1")


async def test_a_task_that_kills_its_executors_is_not_retried_for_ever(bench: Bench) -> None:
    gate = Gate()
    event = await bench.allow(retry_safe=True)
    key = bench.partition.task(event.data.task.task_id)  # type: ignore[attr-defined]
    await bench.policy.hset(key, "lost", "2")
    async with bench.executor({"stub": gate}, name="dies") as dies:
        await until(lambda: bool(gate.calls))
        await dies.crash()
    async with bench.executor({"stub": gate}, name="heir", max_attempts=3):
        assert (await bench.end(TaskFailed)).reason == "attempt_uncertain"


async def test_what_a_dead_executor_had_not_begun_is_performed(bench: Bench) -> None:
    dead = bench.redis_as("executor")
    await bench.allow({"simulated_output_text": "hello"})
    await dead.xgroup_create(bench.partition.decisions, GROUP, id="0")
    await dead.xreadgroup(GROUP, "dead", {bench.partition.decisions: ">"}, count=10)
    async with bench.executor():
        assert (await bench.end(TaskSucceeded)).output_text == "hello"


async def test_a_paused_executor_is_refused_and_tells_what_its_call_cost(bench: Bench) -> None:
    gate = Gate()
    event = await bench.allow()
    async with bench.executor({"stub": gate}, name="paused") as paused:
        await until(lambda: bool(gate.calls))
        paused.loses_its_heartbeat()
        async with bench.executor({"stub": gate}, name="heir"):
            end = await bench.end(TaskFailed)
            assert end.reason == "attempt_uncertain"
            gate.open()
            late = await bench.event(AttemptResolved)
            await bench.ends(1)
    assert (late.spend, late.usage.cost, late.decision_id) == ("certain", from_cents(2), event.id)
    assert late.attempt_id is not None
    assert (await bench.result(event))["failure_reason"] == "attempt_uncertain", "the first end stands"
    assert len(gate.calls) == 1


async def test_a_long_call_is_not_taken_away_from_who_makes_it(bench: Bench) -> None:
    """Longer than the silence after which work is taken over; and with no place free, too."""
    gate = Gate()
    few: dict[str, Any] = {"executor_concurrency": 3, "executor_claim_idle_ms": LONG_IDLE_MS}
    async with bench.executor({"stub": gate}, **few) as one, bench.executor({"stub": gate}, **few) as two:
        await until(lambda: one.worker.problem is None and two.worker.problem is None)
        await bench.decide(*(bench.allowed() for _ in range(6)))
        await until(lambda: len(gate.calls) == 6)
        async with bench.executor({"stub": gate}, **few):  # which has room for what is not kept young
            await asyncio.sleep(LONG_IDLE_MS * 1.5 / 1000)  # the test is that nothing happens
            gate.open()
            assert {end.type for end in await bench.ends(6)} == {"task.succeeded"}
    assert len(gate.calls) == 6


async def test_an_executor_full_of_long_calls_keeps_them_while_another_died(bench: Bench) -> None:
    """It has no room for what the dead one left, and must not fall silent while it waits for some."""
    gate = Gate()
    async with bench.executor({"stub": gate}, executor_concurrency=2) as dies:
        await bench.decide(*(bench.allowed() for _ in range(2)))
        await until(lambda: len(gate.calls) == 2)
        await dies.crash()
    async with bench.executor({"stub": gate}, executor_concurrency=2, executor_claim_idle_ms=200) as full:
        await bench.decide(*(bench.allowed() for _ in range(4)))
        await until(lambda: len(gate.calls) == 4 and len(full.worker._held) == 4)
        async with bench.executor({"stub": gate}, executor_concurrency=8, executor_claim_idle_ms=LONG_IDLE_MS):
            await asyncio.sleep(LONG_IDLE_MS * 1.5 / 1000)  # the test is that nothing is taken from it
            gate.open()
            ends = await bench.ends(6)
    assert sum(end.type == "task.succeeded" for end in ends) >= 4


async def test_a_stop_lets_calls_end_and_leaves_the_group(bench: Bench) -> None:
    gate = Gate()
    await bench.allow()
    async with bench.executor({"stub": gate}, name="stops") as executor:
        await until(lambda: bool(gate.calls))
        stopping = asyncio.create_task(executor.stop())
        await until(lambda: executor.worker._stopping)
        gate.open()
        await stopping
        await bench.end(TaskSucceeded)
        assert await bench.admin.xinfo_consumers(bench.partition.decisions, GROUP) == []
        await bench.allow()
    assert len(gate.calls) == 1 and await bench.pending() == 0


async def test_lost_connections_lose_and_double_nothing(bench: Bench, redis_as: Callable[[str], Redis]) -> None:
    async with bench.executor(**TWO_LIVE), bench.executor(**TWO_LIVE):
        for _ in range(15):
            await bench.decide(*(bench.allowed({"simulated_delay_ms": 5}) for _ in range(20)))
            await bench.admin.client_kill_filter(user="executor")
        ends = await bench.ends(300)
        await until(bench.nothing_is_left)
    assert len({end.subject for end in ends}) == 300
    kinds = {end.type for end in ends} | {getattr(end.data, "reason", "") for end in ends}
    assert kinds == {"task.succeeded", ""}, kinds
    assert len({start.id for start in await bench.outcomes("attempt.started")}) == 300


async def test_a_delivery_whose_reply_was_lost_is_picked_up(bench: Bench) -> None:
    """Delivered to a name, and the reply lost: as after any cut connection. Found again without waiting for its age."""
    await bench.allow()
    redis = bench.redis_as("executor")
    await redis.xgroup_create(bench.partition.decisions, GROUP, id="0")
    await redis.xreadgroup(GROUP, "me", {bench.partition.decisions: ">"}, count=10)
    async with bench.executor(name="me", executor_claim_idle_ms=60_000):
        await bench.end(TaskSucceeded)


async def test_an_end_survives_a_server_that_is_away(tmp_path: Path) -> None:
    """The call succeeds while the log is down: its end is written when it is back, not forgotten."""
    server = EmbeddedValkey(tmp_path, durability="fsync")
    server.start()
    opened: list[Redis] = []

    def open_as(role: str) -> Redis:
        opened.append(connect(server.url(role), client_name=role))
        return opened[-1]

    try:
        own, gate = Bench(open_as), Gate()
        async with own.executor({"stub": gate}, executor_claim_idle_ms=10_000):
            event = await own.allow()
            await until(lambda: bool(gate.calls))
            await asyncio.to_thread(server.stop)
            gate.open()
            await asyncio.sleep(0.2)  # the end is tried, in vain
            await asyncio.to_thread(server.start)
            await until(lambda: _answers(own))
            assert (await own.end(TaskSucceeded)).usage.cost == from_cents(2)
            assert (await own.result(event))["status"] == "success"
            await own.allow()
            await own.ends(2)
    finally:
        await asyncio.gather(*(redis.aclose() for redis in opened))
        server.stop()


async def _answers(bench: Bench) -> bool:
    try:
        return all([await redis.ping() for redis in (bench.admin, bench.policy, bench.reader)])
    except RedisError:
        return False
