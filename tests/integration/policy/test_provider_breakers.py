"""The one writer of models' breakers, on a real server and in its role: one atomic step, fencing, restart, reset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost

from services.policy.provider_breakers.writer import BreakerWriter
from shared.clock import ServerClock
from shared.control_state import ControlState
from shared.events.decisions import BreakerState
from shared.events.envelope import new
from shared.events.outcomes import TaskFailed, TaskSucceeded, Usage
from shared.events.tasks import TaskRef, TaskType
from shared.partitions import CONTROL, PROVIDER_BREAKERS, PROVIDER_BREAKERS_LEASE, Partition
from shared.settings import Settings
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from shared.streams.lease import Fenced, Lease

PARTITIONS = 2
USERS = [uuid4() for _ in range(3)]
DEADLINE_S = 30.0


class Bench:
    """What executors would write about a model that no other test calls, and what the control stream says of it."""

    def __init__(self, redis_as: Callable[[str], Redis]) -> None:
        self.redis_as = redis_as
        self.executor, self.operator = redis_as("executor"), redis_as("operator")
        self.model = f"model-{uuid4().hex[:8]}"
        self.settings = Settings(
            partitions=PARTITIONS,
            lease_ttl_ms=300,
            provider_breaker_consecutive_failures=3,
            provider_breaker_open_seconds=0.2,
            provider_breaker_probes=1,
        )

    @asynccontextmanager
    async def writer(self, name: str, **changed: Any) -> AsyncIterator[BreakerWriter]:
        """A writer until the block ends; it is then killed, not stopped."""
        redis, clock = self.redis_as("policy"), ServerClock()
        clock.synchronise(*await redis.time())
        writer = BreakerWriter(redis, name, clock, Partitions(PARTITIONS), self.settings.model_copy(update=changed))
        task = asyncio.create_task(writer.run())
        try:
            yield writer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def ended(self, *users: UUID, failed: bool = True) -> None:
        """A call of each of these users has ended, in one partition or another."""
        for number, user in enumerate(users):
            task = TaskRef(
                task_id=uuid4(), request_id="r", task_type=TaskType.ROUTE, provider="openai", model=self.model
            )
            known: dict[str, Any] = {"task": task, "decision_id": uuid4(), "provider_attempted": True}
            end = (
                TaskFailed(**known, reason="provider_error:X", counts_for_breaker=True, spend="none")
                if failed
                else TaskSucceeded(**known, was_cached=False, output_text="", usage=Usage(latency_ms=1))
            )
            about = {"tenantid": uuid4(), "userid": user}
            event = new(end, event_id=uuid4(), source="/skeldir/executor", subject="t", now_ms=1, **about)
            await self.executor.xadd(Partition(number % PARTITIONS).outcomes, event.to_entry())

    async def published(self) -> list[dict[str, Any]]:
        """What the control stream says of this model, in its order. Other tests leave there what is no order."""
        entries = [fields.get(b"data", b"") for _, fields in await self.operator.xrange(CONTROL)]
        about = [orjson.loads(data) for data in entries if self.model.encode() in data]
        return [one for one in about if one.get("model") == self.model]

    async def states(self, *wanted: str, and_on: bool = False) -> list[dict[str, Any]]:
        """Wait until the breaker has gone through these states. `and_on`: it may have gone on since, of itself."""

        async def look() -> list[dict[str, Any]] | None:
            found = await self.published()
            found = found[: len(wanted)] if and_on else found
            return found if [one.get("state", "reset") for one in found] == list(wanted) else None

        found: list[dict[str, Any]] = await until(look, f"the states {wanted}")
        return found

    async def control(self) -> ControlState:
        reader = ControlReader(self.operator, 1000)
        await reader.catch_up()
        return reader.state


async def until(look: Callable[[], Awaitable[Any]], what: str) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        while not (found := await look()):
            await asyncio.sleep(0.005)
    assert found, what
    return found


@pytest.fixture
async def bench(redis_as: Callable[[str], Redis]) -> AsyncIterator[Bench]:
    yield Bench(redis_as)
    await redis_as("admin").delete(PROVIDER_BREAKERS, PROVIDER_BREAKERS_LEASE)


async def test_failures_of_two_partitions_open_it_and_a_probe_closes_it(bench: Bench) -> None:
    async with bench.writer("one"):
        await bench.ended(*USERS)
        (opened,) = await bench.states("open", and_on=True)
        assert opened["reason"] == "3 failures in a row" and opened["figures"]["failed"] == 3
        await bench.states("open", "half_open")
        await bench.ended(USERS[0], failed=False)
        await bench.states("open", "half_open", "closed")
    breaker = (await bench.control()).provider_breakers["openai", bench.model]
    assert (breaker.state, breaker.version, breaker.actor) == (BreakerState.CLOSED, 3, "policy")


async def test_what_was_counted_survives_the_writer(bench: Bench) -> None:
    policy = bench.redis_as("policy")

    async def is_stored() -> bool:
        return any(b'"row":2' in window for window in (await policy.hgetall(PROVIDER_BREAKERS)).values())

    async with bench.writer("one") as writer:
        await bench.ended(*USERS[:2])
        await _read_by(writer, bench)
        writer._stored_ms = 0  # a second has passed
        await bench.executor.xadd(Partition(0).outcomes, {"type": "attempt.started", "data": "{}"})
        await until(is_stored, "the window beside the stream")
    for number in range(PARTITIONS):
        await bench.redis_as("admin").xtrim(Partition(number).outcomes, maxlen=0)
    async with bench.writer("two"):
        await bench.ended(USERS[0])
        await bench.states("open")


async def test_a_crash_between_reading_and_publishing_neither_loses_nor_doubles(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before the step reached the server, once after it did and its reply was lost."""
    commit = Lease.commit
    for lost_after in (False, True):
        bench.model += "x"
        crashed = asyncio.Event()

        async def crash(lease: Any, *arguments: Any, after: bool = lost_after, done: asyncio.Event = crashed) -> None:
            if after:
                await commit(lease, *arguments)
            done.set()
            raise ConnectionLost("cut")

        with monkeypatch.context() as cut:
            cut.setattr(Lease, "commit", crash)
            async with bench.writer("one", provider_breaker_open_seconds=60):
                await bench.ended(*USERS)
                async with asyncio.timeout(DEADLINE_S):
                    await crashed.wait()
        assert len(await bench.published()) == lost_after
        async with bench.writer("two", provider_breaker_open_seconds=60) as two:
            await until(lambda: _leads(two), "it leads")
            (opened,) = await bench.states("open")
            assert opened["version"] == 1
            await bench.ended(*USERS)  # and what comes later finds it open
            position = await _read_by(two, bench)
            assert len(await bench.published()) == 1, position


async def test_a_paused_writer_is_fenced_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wakes up in the middle of its step; another has opened the breaker meanwhile."""
    arrived, go_on = asyncio.Event(), asyncio.Event()
    commit = Lease.commit
    refused: list[Exception] = []

    async def slow(lease: Any, *arguments: Any) -> None:
        if lease._owner != "paused":
            return await commit(lease, *arguments)
        arrived.set()
        await go_on.wait()
        try:
            await commit(lease, *arguments)
        except Fenced as error:
            refused.append(error)
            raise

    async def asleep(lease: Any) -> int:
        if lease._owner == "paused" and arrived.is_set():
            await go_on.wait()
        return await renew(lease)

    renew = Lease.renew
    monkeypatch.setattr(Lease, "commit", slow)
    monkeypatch.setattr(Lease, "renew", asleep)
    async with bench.writer("paused", provider_breaker_open_seconds=60):
        await bench.ended(*USERS)
        await arrived.wait()
        async with bench.writer("successor", provider_breaker_open_seconds=60):
            await bench.states("open")
            go_on.set()
            await until(lambda: _true(refused), "the paused one's step is refused")
            await bench.states("open")


async def test_an_operators_reset_closes_it_and_the_count_begins_anew(bench: Bench) -> None:
    async with bench.writer("one", provider_breaker_open_seconds=60) as writer:
        await bench.ended(*USERS)
        await bench.states("open")
        order = {"type": "provider_breaker.reset", "provider": "openai", "model": bench.model}
        await bench.operator.xadd(CONTROL, {"data": orjson.dumps({**order, "reason": "mended", "actor": "ann"})})
        await bench.ended(*USERS[:2])
        await _read_by(writer, bench)
        await bench.states("open", "reset")
        await bench.ended(USERS[2])
        assert [one["version"] for one in await bench.states("open", "reset", "open") if "version" in one] == [1, 3]


async def test_lost_windows_leave_no_breaker_open_for_ever(bench: Bench) -> None:
    """How a breaker stands is on the control stream alone; nobody leads when its time is over."""
    async with bench.writer("one"):
        await bench.ended(*USERS)
        await bench.states("open", and_on=True)
    await bench.redis_as("admin").delete(PROVIDER_BREAKERS)
    async with bench.writer("two"):
        await bench.states("open", "half_open")


async def _true(found: Any) -> bool:
    return bool(found)


async def _leads(writer: BreakerWriter) -> bool:
    return bool(writer.token)


async def _read_by(writer: BreakerWriter, bench: Bench) -> dict[str, str]:
    """Wait until the writer has taken in all that is there."""
    last = {
        stream: (await bench.operator.xrevrange(stream, count=1))[0][0].decode()
        for stream in (Partition(number).outcomes for number in range(PARTITIONS))
    }

    async def has_read() -> dict[str, str] | None:
        return writer._positions if writer._positions == last else None

    found: dict[str, str] = await until(has_read, "read to the end")
    return found
