"""A stop stops: also what was allowed already, also in the last moment, also when the executor cannot know."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from services.executor import streaming
from services.executor.delivery import Delivery
from services.executor.providers import Answer, Call
from shared.events.decisions import BlockReason, TaskBlocked
from shared.events.outcomes import DecisionExpired, TaskFailed, TaskSucceeded
from shared.money import from_cents
from shared.partitions import CONTROL
from shared.streams.read import read_after
from skeldir.embedded import EmbeddedValkey
from tests.integration.executor.conftest import Bench, Executor, Gate, OnlyCalls, until


async def test_a_kill_switch_stops_what_was_allowed_before_it(bench: Bench) -> None:
    event = await bench.allow()
    position = await bench.engage()
    gate = Gate(is_open=True)
    async with bench.executor({"stub": gate}):
        end = await bench.end(TaskBlocked)
    assert gate.calls == []
    assert (end.reason, end.rule, end.decision_id) == (BlockReason.KILL_SWITCH, "executor", event.id)
    assert end.explanation["actor"] == "tester" and end.control_position >= position
    result = await bench.result(event)
    assert (result["status"], result["blocked_reason"]) == ("blocked", "provider_kill_switch")
    assert result["provider_attempted"] is False and await bench.pending() == 0


async def test_a_stream_is_cut_when_the_order_comes_and_not_with_the_next_tick(
    bench: Bench, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "TICK_S", 60)
    event, gate = bench.allowed(stream=True), Gate()
    with BlockingRedis.from_url(valkey.url("gateway")) as gateway, gateway.pubsub() as listener:
        listener.ssubscribe(bench.partition.chunks(UUID(event.subject)))
        assert listener.get_sharded_message(timeout=5) is not None
        async with bench.executor({"stub": gate}):
            await bench.decide(event)
            await until(lambda: len(gate.calls) == 1, "the call")
            await bench.engage()
            end = await bench.end(TaskFailed)
    assert end.reason == "stream_cut:provider_kill_switch"


async def test_released_it_goes_on_without_a_restart(bench: Bench) -> None:
    gate = Gate(is_open=True)
    async with bench.executor({"stub": gate}) as executor:
        await bench.engage()
        await until(lambda: any(scope.tenant_id == bench.tenant for scope in executor.control.state.switches))
        await bench.allow()
        await bench.ends(1)
        scope = {"tenant_id": str(bench.tenant)}
        await bench.order(type="kill_switch.released", scope=scope, reason="over")
        await until(lambda: not any(one.tenant_id == bench.tenant for one in executor.control.state.switches))
        await bench.allow()
        blocked, succeeded = await bench.ends(2)
    assert (blocked.type, succeeded.type, len(gate.calls)) == ("task.blocked", "task.succeeded", 1)


async def test_only_its_scope_is_stopped(bench: Bench) -> None:
    await bench.engage(model="expensive")
    stopped, free = bench.allowed(model="expensive"), bench.allowed(model="cheap")
    async with bench.executor():
        await bench.decide(stopped, free)
        ends = await bench.ends(2)
    assert {end.subject: end.type for end in ends} == {stopped.subject: "task.blocked", free.subject: "task.succeeded"}


def the_order_comes_behind_the_record(bench: Bench, executor: Executor) -> None:
    """A kill switch, once the attempt is recorded and before its call; the executor knows of it then."""
    begin = executor.journal.begin

    async def begins(*args: object) -> object:
        verdict = await begin(*args)  # type: ignore[arg-type]
        await bench.engage()
        await until(lambda: any(one.tenant_id == bench.tenant for one in executor.control.state.switches))
        return verdict

    executor.journal.begin = begins  # type: ignore[assignment]


async def test_a_switch_between_the_record_and_the_call_is_seen_in_the_last_moment(bench: Bench) -> None:
    """The attempt is recorded when the order comes: the call is not made, and the task ends as blocked, unattempted."""
    gate = Gate(is_open=True)
    async with bench.executor({"stub": gate}) as executor:
        the_order_comes_behind_the_record(bench, executor)
        event = await bench.allow()
        end = await bench.end(TaskBlocked)
    assert gate.calls == [] and end.reason == BlockReason.KILL_SWITCH
    assert [one.type for one in await bench.outcomes()] == ["attempt.started", "task.blocked"]
    assert (await bench.record(event))["state"] == "ended" and await bench.pending() == 0


async def test_a_stream_is_not_cut_before_the_provider_is_asked(bench: Bench, valkey: EmbeddedValkey) -> None:
    """There is nothing to cut, and nothing to pay for: it is blocked, as a call that is not streamed."""
    event, gate = bench.allowed(stream=True), Gate(is_open=True)
    with BlockingRedis.from_url(valkey.url("gateway")) as gateway, gateway.pubsub() as listener:
        listener.ssubscribe(bench.partition.chunks(UUID(event.subject)))
        assert listener.get_sharded_message(timeout=5) is not None
        async with bench.executor({"stub": gate}) as executor:
            the_order_comes_behind_the_record(bench, executor)
            await bench.decide(event)
            end = await bench.end(TaskBlocked)
    assert gate.calls == [] and end.reason == BlockReason.KILL_SWITCH
    assert (await bench.result(event))["provider_attempted"] is False


async def test_a_manual_shutoff_blocks_with_the_operators_words(bench: Bench) -> None:
    scope = {"tenant_id": str(bench.tenant), "user_id": str(bench.user)}
    await bench.order(type="shutoff.engaged", scope=scope, reason="runaway agent")
    await bench.allow()
    async with bench.executor():
        assert (await bench.end(TaskBlocked)).reason == "runaway agent"


async def test_an_expired_decision_goes_back_to_policy(bench: Bench) -> None:
    gate = Gate(is_open=True)
    event = await bench.allow(expires_in_ms=-1)
    async with bench.executor({"stub": gate}):
        end = await bench.end(DecisionExpired)
    assert gate.calls == [] and end.decision_id == event.id and end.spend == "none"
    assert end.task.fingerprint == "f" * 64, "policy needs the whole task to decide again"
    assert (await bench.record(event))["state"] == "expired" and await bench.pending() == 0


async def test_a_decision_that_expires_while_it_is_begun_makes_no_call(bench: Bench) -> None:
    gate = Gate(is_open=True)
    async with bench.executor({"stub": gate}) as executor:
        begin = executor.journal.begin

        async def takes_long(*args: object) -> object:
            verdict = await begin(*args)  # type: ignore[arg-type]
            await until(lambda: executor.clock.now_ms() >= event.data.expires_at_ms)  # type: ignore[attr-defined]
            return verdict

        executor.journal.begin = takes_long  # type: ignore[assignment]
        event = bench.allowed(expires_in_ms=400)
        await bench.decide(event)
        assert (await bench.end(DecisionExpired)).spend == "none"
    assert gate.calls == []


async def test_who_cannot_read_the_orders_makes_no_call(bench: Bench) -> None:
    gate = Gate(is_open=True)
    async with bench.executor({"stub": gate}, control_staleness_ms=300) as executor:
        await until(lambda: executor.worker.problem is None)
        executor.control_task.cancel()  # the stream is not read any more, for whatever reason
        await until(lambda: executor.control.is_stale)
        await bench.allow()
        assert (await bench.end(TaskBlocked)).reason == BlockReason.CONTROL_STALE
    assert gate.calls == []


async def test_an_executor_that_just_started_does_not_block_what_waits(bench: Bench) -> None:
    await bench.decide(*(bench.allowed() for _ in range(5)))
    async with bench.executor(control_after_s=0.2):
        assert {end.type for end in await bench.ends(5)} == {"task.succeeded"}


class Notes(OnlyCalls):
    """A provider that answers at once and notes when it was asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.asked_at: list[float] = []

    async def call(self, call: Call) -> Answer:
        self.calls.append(call)
        self.asked_at.append(time.monotonic())
        await asyncio.sleep(0.01)
        return Answer("", 1, 1, from_cents(1))

    async def close(self) -> None:
        pass


class Hears:
    """A bare reader of the orders, in the executor's own loop. What it hears the executor can know as well.

    So it is told in calls, and not in time, how soon an order is obeyed: whoever stands still, the executor, its log or
    the machine, no call begins meanwhile.
    """

    def __init__(self, redis: Redis, notes: Notes, scopes: Sequence[str]) -> None:
        self._redis = redis
        self._notes = notes
        self._scopes = scopes
        self.begun: dict[str, int] = {}
        """By the scope that an order names: how many calls had begun when it was heard."""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """To what comes from now on."""
        newest: Any = await self._redis.xrevrange(CONTROL, count=1)
        task = asyncio.create_task(self._listen(newest[0][0].decode() if newest else "0-0"))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def calls_since(self, scope: str, last: int) -> int:
        """How many calls of whatever scope began between the order and this one, the `last` of its own scope."""
        return last + 1 - self.begun[scope]

    async def _listen(self, position: str) -> None:
        while True:
            for entry_id, fields in (await read_after(self._redis, {CONTROL: position}, 100, 1000)).get(CONTROL, []):
                position = entry_id.decode()
                for scope in self._scopes:
                    if scope.encode() in fields.get(b"data", b""):
                        self.begun.setdefault(scope, len(self._notes.calls))


WAITING, SCOPES, BETWEEN_S = 10_000, 20, 0.05
MOST_CALLS = 32
"""So many begin at the most after an order was there to be heard: one turn of all places."""
# A process of its own, so that neither waits for the other's interpreter; the monotonic clock is one for the machine.
OPERATOR = """
import sys, time, redis
log = redis.Redis.from_url(sys.argv[1])
print(log.ping(), flush=True)
for line in sys.stdin:
    log.xadd(sys.argv[2], {"data": line})
    print(time.monotonic(), flush=True)
"""


async def last_starts(bench: Bench, url: str, *, waiting: int, orders: int) -> tuple[list[float], list[int]]:
    """Milliseconds from the acknowledgement of each order to the start of the last call in its scope; below 0: before.
    And how many calls began from when it could be heard until then.

    So many allowed tasks wait, of as many models as there are orders, one after another; each order stops one model.
    """
    notes = Notes()
    models = [f"model-{uuid4().hex[:8]}" for _ in range(orders)]
    for first in range(0, waiting, 1000):
        await bench.decide(*(bench.allowed(model=models[at % orders]) for at in range(first, first + 1000)))

    acknowledged_at: dict[str, float] = {}
    operator = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OPERATOR, url, CONTROL, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert operator.stdin is not None and operator.stdout is not None
    await operator.stdout.readline()
    hears = Hears(bench.redis_as("admin"), notes, models)
    async with bench.executor({"stub": notes}), hears.listening():
        await until(lambda: len(notes.asked_at) > orders, "load")
        for model in models:
            data = {"type": "kill_switch.engaged", "scope": {"model": model}, "reason": "test", "actor": "test"}
            operator.stdin.write(orjson.dumps(data) + b"\n")
            acknowledged_at[model] = float(await operator.stdout.readline())
            await asyncio.sleep(BETWEEN_S)  # the load between two orders
        before = await bench.reader.xlen(bench.partition.outcomes)

        async def went_on() -> bool:
            return bool(await bench.reader.xlen(bench.partition.outcomes) > before + 500)

        await until(went_on, "the executor goes through what it may not call")
    operator.stdin.close()
    await operator.wait()
    blocked = {end.data.task.model for end in await bench.outcomes("task.blocked")}  # type: ignore[attr-defined]
    assert blocked == set(models), "of each model some were still waiting"
    last = {call.model: number for number, call in enumerate(notes.calls)}
    lags_ms = [(notes.asked_at[last[model]] - acknowledged_at[model]) * 1000 for model in models]
    return lags_ms, [hears.calls_since(model, last[model]) for model in models]


async def test_ten_thousand_wait_and_none_is_called_later_than_the_bound(bench: Bench, valkey: EmbeddedValkey) -> None:
    lags_ms, calls = await last_starts(bench, valkey.url("operator"), waiting=WAITING, orders=SCOPES)
    print(f"\nlast call start after the acknowledgement, ms: {sorted(round(lag, 1) for lag in lags_ms)}")
    print(f"calls that began when it could be heard: {sorted(calls)}")
    assert sorted(lags_ms)[SCOPES // 2] < 50
    assert max(calls) <= MOST_CALLS


ORDERS, TASKS = 20, 200


async def test_under_load_no_call_starts_later_than_the_propagation_bound(bench: Bench, valkey: EmbeddedValkey) -> None:
    """From the moment before the XADD of the order to the start of the last call; many orders, each into a backlog."""
    lags_ms: list[float] = []
    notes, calls = Notes(), []
    tenants = [uuid4() for _ in range(ORDERS)]
    hears = Hears(bench.redis_as("admin"), notes, [str(tenant) for tenant in tenants])

    def engage_from_outside() -> float:
        """In a thread, as another process would: the executor's loop is not asked. When it was sent."""
        data = {"type": "kill_switch.engaged", "scope": {"tenant_id": str(bench.tenant)}, "reason": "test"}
        sent_at = time.monotonic()
        outside.xadd(CONTROL, {"data": orjson.dumps(data)})
        return sent_at

    with BlockingRedis.from_url(valkey.url("operator")) as outside:
        outside.ping()
        async with bench.executor({"stub": notes}), hears.listening():
            for bench.tenant in tenants:
                begun = len(notes.asked_at)
                await bench.decide(*(bench.allowed() for _ in range(TASKS)))
                await until(lambda begun=begun: len(notes.asked_at) > begun, "load")  # type: ignore[misc]
                sent_at = await asyncio.to_thread(engage_from_outside)
                await until(bench.nothing_is_left, "the end of the backlog")
                lags_ms.append(max(0.0, (max(notes.asked_at) - sent_at) * 1000))
                await until(lambda: str(bench.tenant) in hears.begun, "the order is heard")
                calls.append(hears.calls_since(str(bench.tenant), len(notes.calls) - 1))
    blocked = sum(end.type == "task.blocked" for end in await bench.ends(ORDERS * TASKS))
    print(f"\nstopped {blocked}; last call start after the order, ms: {sorted(round(lag, 1) for lag in lags_ms)}")
    assert blocked > ORDERS, "the orders came too late to stop anything: not a test"
    print(f"calls that began when it could be heard: {sorted(calls)}")
    assert sorted(lags_ms)[ORDERS // 2] < 50
    assert max(calls) <= MOST_CALLS


async def test_a_cached_answer_is_not_served_past_a_stop(bench: Bench) -> None:
    async with bench.executor():
        await bench.allow({"input": "x"}, cached=True)
        await bench.ends(1)
        await bench.engage()
        await bench.allow({"input": "x"}, cached=True)
        first, second = await bench.ends(2)
    assert isinstance(first.data, TaskSucceeded) and isinstance(second.data, TaskBlocked)


async def test_a_cached_answer_is_not_served_past_a_stop_that_comes_while_it_is_fetched(bench: Bench) -> None:
    async with bench.executor() as executor:
        await bench.allow({"input": "x"}, cached=True)
        await bench.ends(1)
        lookup = executor.performer._cache.lookup

        async def fetched_when_the_order_comes(delivery: Delivery) -> TaskSucceeded | None:
            answer = await lookup(delivery)
            await bench.engage()
            await until(lambda: any(one.tenant_id == bench.tenant for one in executor.control.state.switches))
            return answer

        executor.performer._cache.lookup = fetched_when_the_order_comes  # type: ignore[method-assign]
        await bench.allow({"input": "x"}, cached=True)
        assert isinstance((await bench.ends(2))[1].data, TaskBlocked)


async def _open_breaker(bench: Bench, model: str) -> None:
    """As policy's elected writer publishes it."""
    about = {"provider": "stub", "model": model, "state": "open", "previous": "closed", "version": 1}
    await bench.order(type="provider_breaker.changed", **about, until="2099-01-01T00:00:00Z", reason="it fails")


async def test_a_models_breaker_stops_what_was_allowed_before_it_but_for_the_cache(bench: Bench) -> None:
    gate, model = Gate(is_open=True), f"flaky-{uuid4()}"
    async with bench.executor({"stub": gate}) as executor:
        await bench.allow({"text": "known"}, model=model, cached=True)
        await bench.ends(1)
        await _open_breaker(bench, model)
        await until(lambda: ("stub", model) in executor.control.state.provider_breakers)
        await bench.allow({"text": "known"}, model=model, cached=True)
        await bench.ends(2)
        await bench.allow({"text": "other"}, model=model, cached=True)
        await bench.ends(3)
        await bench.allow(model=model)
        called, cached, *stopped = [event.data for event in await bench.ends(4)]
    assert isinstance(called, TaskSucceeded) and isinstance(cached, TaskSucceeded) and cached.was_cached
    assert [one.reason for one in stopped if isinstance(one, TaskBlocked)] == ["provider_breaker_open"] * 2
    assert len(gate.calls) == len(await bench.outcomes("attempt.started")) == 1


async def test_a_breaker_that_opens_between_the_record_and_the_call_is_seen_in_the_last_moment(bench: Bench) -> None:
    gate, model = Gate(is_open=True), f"flaky-{uuid4()}"
    async with bench.executor({"stub": gate}) as executor:
        begin = executor.journal.begin

        async def begins_and_then_it_opens(*args: object) -> object:
            verdict = await begin(*args)  # type: ignore[arg-type]
            await _open_breaker(bench, model)
            await until(lambda: ("stub", model) in executor.control.state.provider_breakers)
            return verdict

        executor.journal.begin = begins_and_then_it_opens  # type: ignore[assignment]
        await bench.allow(model=model)
        end = await bench.end(TaskBlocked)
    assert gate.calls == [] and end.reason == BlockReason.PROVIDER_BREAKER_OPEN
