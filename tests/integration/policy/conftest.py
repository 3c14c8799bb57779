"""A running policy writer on a partition of its own, in the Redis role that it has in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from services.policy.partition import PartitionWriter
from shared.clock import ServerClock
from shared.events.envelope import Envelope, new
from shared.events.registry import EVENTS
from shared.events.tasks import Task, TaskSubmitted, TaskType, task_id_of
from shared.money import from_cents
from shared.partitions import Partition
from shared.settings import Settings
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from shared.streams.spread import Spread

DEADLINE_S = 60.0


class Bench:
    """One partition: what the gateway and the executor would write, and what policy says."""

    def __init__(
        self, gateway: Redis, executor: Redis, ledger: Redis, policy: Callable[[], Redis], partition: Partition
    ) -> None:
        self.gateway = gateway
        self.ledger = ledger
        self.executor = executor
        self.policy = policy
        self.partition = partition
        self.tenant = uuid4()
        self.user = uuid4()
        # Leases are short where a test waits for their end. Staleness is not waited for: a machine that stands still
        # for a second or two is not to keep a writer from deciding.
        self.settings = Settings(lease_ttl_ms=400, control_staleness_ms=15_000)
        self.serial = 0

    @asynccontextmanager
    async def writer(
        self,
        name: str,
        *,
        vouched: bool = True,
        partitions: Partitions | None = None,
        spread: Spread | None = None,
        **changed: Any,
    ) -> AsyncIterator[PartitionWriter]:
        """A writer that wants this partition's lease, until the block ends (it is then killed, not stopped)."""
        redis = self.policy()
        if vouched:
            await self.vouch()
        settings = self.settings.model_copy(update=changed)
        control, clock = ControlReader(redis, settings.control_staleness_ms), ServerClock()
        writer = PartitionWriter(redis, self.partition, name, control, clock, settings, partitions, spread)
        tasks = [asyncio.create_task(work) for work in (control.follow(), clock.follow(redis), writer.run())]
        try:
            yield writer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await redis.aclose()

    async def vouch(self) -> None:
        """As the ledger does for a partition of which its books know nothing, either."""
        await self.ledger.hset(self.partition.ledger, "tasks", "0-0")

    def submitted(self, user: UUID | None = None, **fields: Any) -> Envelope:
        """A task event as the gateway writes it."""
        self.serial += 1
        request_id = f"request-{self.serial}"
        known: dict[str, Any] = {
            "task_id": task_id_of(self.tenant, TaskType.ROUTE, request_id),
            "request_id": request_id,
            "task_type": TaskType.ROUTE,
            "provider": "stub",
            "model": "model",
            "prompt": {},
            "fingerprint": "f" * 64,
            "max_cost": from_cents(1),
        }
        payload = TaskSubmitted(task=Task(**{**known, **fields}))
        return new(
            payload,
            event_id=uuid4(),
            source="/skeldir/gateway",
            subject=str(payload.task.task_id),
            now_ms=1,
            tenantid=self.tenant,
            userid=user or self.user,
        )

    async def submit(self, *events: Envelope) -> None:
        """Append them to the partition's tasks."""
        for event in events:
            await self.gateway.xadd(self.partition.tasks, event.to_entry())

    async def decisions(self, count: int, event_type: str = "task.") -> list[Envelope]:
        """Wait until `count` events of that type (or prefix) are among the decisions."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                entries = await self.executor.xrange(self.partition.decisions)
                events = [EVENTS.decode(fields[b"data"]) for _, fields in entries]
                found = [event for event in events if event.type.startswith(event_type)]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.005)


@pytest.fixture
async def bench(redis_as: Callable[[str], Redis]) -> Bench:
    """A partition that no other test uses."""
    number = uuid4().int % 1_000_000 + 1000
    gateway, executor = redis_as("gateway"), redis_as("executor")
    return Bench(gateway, executor, redis_as("ledger"), lambda: redis_as("policy"), Partition(number))
