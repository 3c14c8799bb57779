"""Reading: no more than there is room for, nothing that is no work, and nothing that stops the rest."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from services.executor import reading
from services.executor.journal import GROUP
from services.executor.performance import Performer
from services.executor.worker import HELD_PER_PLACE
from shared.events.outcomes import TaskFailed
from shared.partitions import DEAD_LETTERS
from tests.integration.executor.conftest import TWO_LIVE, Bench, Gate, until


async def test_no_more_is_taken_than_there_is_room_for(bench: Bench) -> None:
    gate = Gate()
    await bench.decide(*(bench.allowed() for _ in range(100)))
    async with bench.executor({"stub": gate}, executor_concurrency=4) as executor:
        await until(lambda: len(gate.calls) == 4)
        assert executor.room.free == 0
        assert await bench.pending() <= 2 * 4 * HELD_PER_PLACE, "what waits for a place is bounded"
        gate.open()
        await bench.ends(100)
    assert len(gate.calls) == 100


async def test_a_tenants_flood_of_slow_calls_keeps_no_other_tenant_waiting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls hang, its tasks stand first in the stream: the other task is found behind them, and has a place."""
    monkeypatch.setattr(reading, "READ_AHEAD_S", 60)  # that is for when there is none
    gate = Gate()
    async with bench.executor({"stub": gate}, executor_concurrency=8) as executor:
        await bench.decide(*(bench.allowed() for _ in range(40)))
        await until(lambda: len(gate.calls) == executor.room.share == 7)
        other = await bench.allow(tenant=uuid4())
        await until(lambda: gate.calls[-1].idempotency_key == other.subject, "the other tenant's call")
        gate.open()
        await bench.ends(41)
    assert executor.room.free == 8


async def test_two_executors_share_the_work(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no room reads on slowly, so that who has takes what comes."""
    monkeypatch.setattr(reading, "READ_AHEAD_S", 10)  # so slowly that who has room may come late
    one, two, few = Gate(), Gate(), {"executor_concurrency": 4, **TWO_LIVE}
    async with bench.executor({"stub": one}, **few):
        await bench.decide(*(bench.allowed() for _ in range(8)))
        await until(lambda: len(one.calls) == 4)
        async with bench.executor({"stub": two}, **few):
            await until(lambda: len(two.calls) == 4)
            one.open()
            two.open()
            await bench.ends(8)


async def test_what_is_no_work_is_acknowledged(bench: Bench) -> None:
    entry: Any = {"type": "reservation.ended", "data": "{}"}
    await bench.policy.xadd(bench.partition.decisions, entry)
    async with bench.executor():
        await until(bench.nothing_is_left)
    assert await bench.outcomes() == []


@pytest.mark.parametrize("how", ["not JSON", "another event", "a newer version", "no tenant", "no data"])
async def test_what_cannot_be_read_is_set_aside_and_the_rest_flows(bench: Bench, how: str) -> None:
    raw = orjson.loads(bench.allowed().to_json())
    if how == "another event":
        raw = {**raw, "type": "task.blocked"}
    elif how == "a newer version":
        raw = {**raw, "dataschema": "urn:skeldir:event:task.allowed:99"}
    elif how == "no tenant":
        raw.pop("tenantid")
    entry: Any = {"type": "task.allowed", "data": b"\xff{" if how == "not JSON" else orjson.dumps(raw)}
    if how == "no data":
        del entry["data"]
    await bench.policy.xadd(bench.partition.decisions, entry)
    await bench.allow()
    async with bench.executor():
        await bench.ends(1)
        await until(bench.nothing_is_left)
    letters: Any = await bench.operator.xrevrange(DEAD_LETTERS, count=50)
    (letter,) = [fields for _, fields in letters if fields[b"origin"] == bench.partition.decisions.encode()]
    assert letter[b"type"] == b"task.allowed" and letter[b"reason"]
    assert letter.get(b"data") == entry.get("data")


async def test_a_lost_group_is_made_again_and_nothing_is_called_twice(bench: Bench) -> None:
    gate = Gate(is_open=True)
    async with bench.executor({"stub": gate}):
        await bench.allow()
        await bench.ends(1)
        await bench.admin.xgroup_destroy(bench.partition.decisions, GROUP)
        await bench.allow()
        await bench.ends(2)
        await until(bench.nothing_is_left)
    assert len(gate.calls) == 2


async def test_a_decision_on_which_the_executor_itself_fails_still_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: object) -> None:
        raise ArithmeticError("nobody foresaw this")

    monkeypatch.setattr(Performer, "_perform", breaks)
    event = await bench.allow()
    with capture_logs([merge_contextvars]) as lines:
        async with bench.executor():
            end = await bench.end(TaskFailed)
            await until(bench.nothing_is_left)
    (line,) = [line for line in lines if line["event"] == "could not perform"]
    assert (line["task_id"], line["correlation_id"]) == (event.subject, event.correlationid), "whose it was"
    assert (end.reason, end.spend, end.provider_attempted) == ("executor_error:ArithmeticError", "none", False)


async def test_a_failure_of_the_executor_after_the_call_was_begun_may_have_cost_something(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise ArithmeticError("nobody foresaw this")

    monkeypatch.setattr("services.executor.ends.succeeded", breaks)
    await bench.allow()
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.spend, end.provider_attempted) == ("uncertain", True)


async def test_readiness_is_told_when_the_log_is_lost_and_found(bench: Bench) -> None:
    async with bench.executor() as executor:
        await until(lambda: executor.worker.problem is None)
        await bench.admin.client_kill_filter(user="executor")
        await bench.allow()
        await bench.ends(1)
        await until(lambda: executor.worker.problem is None)
