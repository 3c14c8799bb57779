"""Running executors on a partition of their own, in the Redis role that they have in production."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID, uuid4

import orjson
import pytest
from redis.asyncio import Redis

from services.executor import providers
from services.executor.attempts import Attempts
from services.executor.journal import GROUP, Journal
from services.executor.performance import Performer
from services.executor.providers import Answer, Call, Hear, Provider
from services.executor.reading import Reading
from services.executor.room import Room
from services.executor.worker import PartitionWorker
from shared.clock import ServerClock
from shared.events.decisions import Alternative, BreakerState, Reservation, TaskAllowed
from shared.events.envelope import Envelope, Payload, new
from shared.events.registry import EVENTS
from shared.events.tasks import Task, TaskType, cache_key_of
from shared.money import from_cents
from shared.partitions import CONTROL, Partition
from shared.settings import Settings
from shared.streams.control_reader import ControlReader

DEADLINE_S = 45.0
TWO_LIVE: dict[str, Any] = {"executor_claim_idle_ms": 20_000}
"""A machine that stands still for a second or two makes no executor a dead one."""
NOBODY = "http://127.0.0.1:1"
"""Where nobody listens, nor comes to: a port that was free may be taken by now."""
ENDS = ("task.succeeded", "task.failed", "task.blocked", "decision.expired")
P = TypeVar("P", bound=Payload)


async def until(holds: Callable[[], bool | Awaitable[bool]], what: str = "it") -> None:
    """Poll until it holds; fail after the deadline."""
    end = time.monotonic() + DEADLINE_S
    while True:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < end, f"{what} did not come true"
        await asyncio.sleep(0.004)


class OnlyCalls:
    """A test's provider to which every question is a call."""

    async def call(self, call: Call) -> Answer:
        raise NotImplementedError

    async def stream(self, call: Call, hear: Hear) -> Answer:
        return await self.call(call)

    async def embed(self, call: Call) -> Answer:
        return await self.call(call)


class Gate(OnlyCalls):
    """A provider whose calls the test lets through, and whose account it reads."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.calls: list[Call] = []
        self.started_at: list[float] = []
        self._opened = asyncio.Event()
        if is_open:
            self._opened.set()

    def open(self) -> None:
        self._opened.set()

    async def call(self, call: Call) -> Answer:
        self.calls.append(call)
        self.started_at.append(time.monotonic())
        await self._opened.wait()
        return Answer("through the gate", 10, 5, from_cents(2))

    async def close(self) -> None:
        pass


class Executor:
    """One executor with one partition, in this process."""

    def __init__(
        self,
        redis: Redis,
        partition: Partition,
        settings: Settings,
        known: Mapping[str, Provider],
        name: str,
        control_after_s: float,
    ) -> None:
        self.name = name
        self.redis = redis
        self.known = known
        self.clock = ServerClock()
        self.control = ControlReader(redis, settings.control_staleness_ms)
        self.room = Room(settings.executor_concurrency)
        self.journal = Journal(redis, name, settings)
        self.attempts = Attempts(name, self.journal, self.control, self.clock, known, settings)
        self.performer = Performer(name, self.journal, self.attempts, self.control, self.clock, settings)
        self.worker = PartitionWorker(redis, partition, name, self.performer, self.room, settings)
        reading = Reading(redis, name, [self.worker], self.control, self.room, settings)
        self.control_task = asyncio.create_task(self._follow(control_after_s))
        self._tasks = [asyncio.create_task(reading.run()), asyncio.create_task(self.clock.follow(redis))]

    async def crash(self) -> None:
        """Gone in the middle of everything: nothing that is under way is ended, nothing is said."""
        for task in self.worker._held.values():
            task.cancel()
        await self._cancel()

    async def stop(self) -> None:
        """As on SIGTERM."""
        await self._cancel()

    def loses_its_heartbeat(self) -> None:
        """As if paused: what it holds grows old, though it still believes in it."""

        async def silence(*_: object) -> list[Any]:
            return []

        self.worker._group.keep = silence  # type: ignore[method-assign, assignment]
        self.worker._group.claim = silence  # type: ignore[assignment]

    async def _follow(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.control.follow()

    async def _cancel(self) -> None:
        tasks = [*self._tasks, self.control_task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.attempts.close()
        for provider in self.known.values():
            await provider.close()


class Bench:
    """A partition, the orders that policy and operators would give, and what the executors made of them."""

    def __init__(self, redis_as: Callable[[str], Redis]) -> None:
        self.redis_as = redis_as
        self.policy = redis_as("policy")
        self.reader = redis_as("ledger")
        self.operator = redis_as("operator")
        self.admin = redis_as("admin")
        self.partition = Partition(uuid4().int % 10**9 + 10**6)
        self.tenant, self.user = uuid4(), uuid4()
        self.serial = 0
        # Long enough for what a loaded machine does; tests of a time-out say their own. What one executor holds another
        # takes after 400 ms: where two of them live, and neither is to take from the other, they have `TWO_LIVE`.
        self.settings = Settings(
            executor_claim_idle_ms=400,
            executor_concurrency=32,
            late_result_seconds=20,
            control_staleness_ms=15_000,
        )

    @asynccontextmanager
    async def executor(
        self,
        known: Mapping[str, Provider] | None = None,
        name: str = "",
        control_after_s: float = 0,
        **changed: Any,
    ) -> AsyncIterator[Executor]:
        """An executor that runs for as long as the block."""
        settings = self.settings.model_copy(update=changed)
        known = providers.by_name(settings) if known is None else known
        name = name or f"executor-{uuid4().hex[:8]}"
        one = Executor(self.redis_as("executor"), self.partition, settings, known, name, control_after_s)
        try:
            yield one
        finally:
            await one.crash()

    def allowed(
        self,
        prompt: dict[str, Any] | None = None,
        *,
        user: UUID | None = None,
        tenant: UUID | None = None,
        cached: bool = False,
        amount: int = from_cents(10),
        expires_in_ms: int = 60_000,
        timeout_ms: int = 10_000,
        max_output_tokens: int | None = None,
        cache_only: bool = False,
        alternatives: Sequence[Alternative] = (),
        **fields: Any,
    ) -> Envelope:
        """A decision as policy writes it. `cached`: the task may use the cache."""
        self.serial += 1
        prompt = prompt or {}
        tenant, user = tenant or self.tenant, user or self.user
        known: dict[str, Any] = {
            "task_id": uuid4(),
            "request_id": f"request-{self.serial}",
            "task_type": TaskType.ROUTE,
            "provider": "stub",
            "model": "model",
            "prompt": prompt,
            "fingerprint": "f" * 64,
            "cache_key": cache_key_of(tenant, user, TaskType.ROUTE, "stub:model", prompt) if cached else None,
        }
        task = Task(**{**known, **fields})
        decision_id = uuid4()
        now_ms = int(time.time() * 1000)
        payload = TaskAllowed(
            task=task,
            reservation=Reservation(reservation_id=decision_id, amount=amount, hour="2026-11-23T16", month="2026-11"),
            balances=[],
            expires_at_ms=now_ms + expires_in_ms,
            timeout_ms=timeout_ms,
            max_output_tokens=max_output_tokens,
            cache_only=cache_only,
            alternatives=list(alternatives),
            breaker_state=BreakerState.CLOSED,
            control_position="0-0",
        )
        return new(
            payload,
            event_id=decision_id,
            source="/skeldir/policy",
            subject=str(task.task_id),
            now_ms=now_ms,
            tenantid=tenant,
            userid=user,
            correlationid="c",
        )

    async def decide(self, *events: Envelope) -> None:
        """Set the tasks' records and publish the decisions, as policy's commit does."""
        pipeline: Any = self.policy.pipeline(transaction=False)
        for event in events:
            allowed = event.data
            assert isinstance(allowed, TaskAllowed)
            record = {"state": "allowed", "decision": str(event.id), "fingerprint": allowed.task.fingerprint}
            pipeline.hset(self.partition.task(allowed.task.task_id), mapping=record)
            pipeline.xadd(self.partition.decisions, event.to_entry())
        await pipeline.execute()

    async def allow(self, prompt: dict[str, Any] | None = None, **fields: Any) -> Envelope:
        """Publish one decision."""
        event = self.allowed(prompt, **fields)
        await self.decide(event)
        return event

    async def outcomes(self, kind: str = "") -> list[Envelope]:
        """The events among the outcomes, of one type if given."""
        entries: Any = await self.reader.xrange(self.partition.outcomes)
        events = [EVENTS.decode(fields[b"data"]) for _, fields in entries]
        return [event for event in events if kind in ("", event.type)]

    async def ends(self, count: int) -> list[Envelope]:
        """Wait until `count` tasks have ended, and nothing is pending: no end may come twice."""
        found: list[Envelope] = []

        async def all_there() -> bool:
            found[:] = [event for event in await self.outcomes() if event.type in ENDS]
            return len(found) >= count

        await until(all_there, f"{count} ends")
        assert len(found) == count, [event.type for event in found]
        return found

    async def end(self, kind: type[P]) -> P:
        """Wait for the one end, which must be of this type."""
        (event,) = await self.ends(1)
        assert isinstance(event.data, kind), event.data
        return event.data

    async def event(self, kind: type[P], count: int = 1) -> P:
        """Wait for `count` events of this type; the last."""
        found: list[Envelope] = []

        async def there() -> bool:
            found[:] = await self.outcomes(kind.event_type)
            return len(found) >= count

        await until(there, f"{count} {kind.event_type}")
        assert len(found) == count
        last = found[-1].data
        assert isinstance(last, kind)
        return last

    async def record(self, event: Envelope) -> dict[str, str]:
        """The task's record."""
        raw: Any = await self.policy.hgetall(self.partition.task(UUID(event.subject)))
        return {name.decode(): value.decode() for name, value in raw.items()}

    async def result(self, event: Envelope) -> dict[str, Any]:
        """The result on the task's record."""
        found: dict[str, Any] = orjson.loads((await self.record(event))["result"])
        return found

    async def pending(self) -> int:
        """Deliveries that are not acknowledged."""
        return int((await self.admin.xpending(self.partition.decisions, GROUP))["pending"])

    async def nothing_is_left(self) -> bool:
        """Every decision was delivered and acknowledged."""
        groups: Any = await self.admin.xinfo_groups(self.partition.decisions)
        return any(row["name"] == GROUP.encode() and row["pending"] == 0 and row["lag"] == 0 for row in groups)

    async def order(self, **event: Any) -> str:
        """An operator publishes a control event."""
        entry_id: Any = await self.operator.xadd(CONTROL, {"data": orjson.dumps({"actor": "tester", **event})})
        return str(entry_id, "ascii")

    async def engage(self, **scope: Any) -> str:
        """A kill switch for this test's tenant."""
        scope = {"tenant_id": str(self.tenant), **scope}
        return await self.order(type="kill_switch.engaged", scope=scope, reason="test")


@pytest.fixture
async def bench(redis_as: Callable[[str], Redis]) -> Bench:
    return Bench(redis_as)
