"""A gateway in this process, on a log server of its own, in the Redis and database role that it has in production.

Policy, executor and ledger are not there: a test writes what they would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from redis.asyncio import Redis

from services.gateway.history import History
from services.gateway.main import compose
from shared.events.decisions import BreakerState, TaskBlocked
from shared.events.envelope import Envelope, Payload, new
from shared.events.outcomes import TaskFailed, TaskSucceeded, Usage
from shared.events.registry import EVENTS
from shared.events.results import result_of
from shared.events.tasks import TaskRef, TaskSubmitted
from shared.money import from_cents
from shared.partitions import DEAD_LETTERS, INBOX, Partition, partition_for
from shared.settings import Settings
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedValkey
from skeldir.keys import new_secret, publish_key

DEADLINE_S = 45.0
T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], what: str) -> T:
    """The first value of `look` that is true."""
    async with asyncio.timeout(DEADLINE_S):
        while not (found := await look()):
            await asyncio.sleep(0.01)
    return found


class Gateway:
    """One gateway: its HTTP server and its workers."""

    def __init__(self, url: str, client: httpx.AsyncClient, redis: Redis, tasks: list[asyncio.Task[None]]) -> None:
        self.url = url
        self.client = client
        self.redis = redis
        self._tasks = tasks

    async def stop_workers(self) -> None:
        """As if it had died: nothing that is under way is ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def post(self, path: str, body: Any, key: str, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=content, headers=sent)

    async def get(self, path: str, key: str) -> httpx.Response:
        return await self.client.get(path, headers={"Authorization": f"Bearer {key}"})

    async def ready(self) -> httpx.Response:
        """Wait until it says that it is ready."""

        async def look() -> httpx.Response | None:
            reply = await self.client.get("/readyz")
            return reply if reply.status_code == 200 else None

        found = await eventually(look, "readiness")
        assert found is not None
        return found


class Bench:
    """The log, a tenant with a user, and what the other services would write."""

    def __init__(self, server: EmbeddedValkey, admin: Redis) -> None:
        self.server = server
        self.admin = admin
        self.tenant, self.user = uuid4(), uuid4()
        # Long enough for a loaded machine, short enough to wait for.
        # Staleness has tests of its own: here a machine that stands still for two seconds is not to refuse a request.
        self.settings = Settings(
            executor_claim_idle_ms=400, batch_size=100, max_wait_seconds=20, control_staleness_ms=15_000
        )

    @asynccontextmanager
    async def gateway(
        self, database_url: str | None = None, patience_s: float = 0, **changed: Any
    ) -> AsyncIterator[Gateway]:
        """A gateway that runs for as long as the block, and is ready."""
        async with self.gateway_unready(database_url, patience_s, **changed) as gateway:
            await gateway.ready()
            yield gateway

    @asynccontextmanager
    async def gateway_unready(
        self, database_url: str | None = None, patience_s: float = 0, **changed: Any
    ) -> AsyncIterator[Gateway]:
        """A gateway that runs for as long as the block."""
        settings = self.settings.model_copy(update=changed)
        redis = connect(self.server.url("gateway"), client_name="gateway-test", max_connections=128)
        history = History(database_url)
        app, workers, _ = compose(redis, history, f"gateway-{uuid4().hex}", settings, patience_s)
        # Idle connections rest for longer than the client keeps them: else one is closed just when it is used.
        bounds: dict[str, Any] = {"timeout_graceful_shutdown": 1, "timeout_keep_alive": 75}
        config = uvicorn.Config(app, port=0, log_config=None, access_log=False, **bounds)
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        tasks = [asyncio.create_task(_run(worker)) for worker in workers]
        async with asyncio.timeout(DEADLINE_S):
            while not server.started:
                await asyncio.sleep(0.005)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        limits = httpx.Limits(max_connections=500)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30, limits=limits) as client:
            gateway = Gateway(url, client, redis, tasks)
            try:
                yield gateway
            finally:
                server.should_exit = True
                await gateway.stop_workers()
                await serving
                await history.close()
                await redis.aclose()

    async def key(self, gateway: Gateway, role: str = "producer", **named: Any) -> str:
        """A new key, usable at once: of the bench's tenant and user, where nothing else is named."""
        secret = new_secret()
        tenant, user = named.get("tenant", self.tenant), named.get("user", self.user)
        await publish_key(self.admin, secret, tenant, user, role, actor="test")

        async def known() -> bool:
            return (await gateway.get("/v1/models", secret)).status_code == 200

        await eventually(known, "the key is known")
        return secret

    def partition(self, tenant: UUID | None = None) -> Partition:
        return partition_for(tenant or self.tenant, self.settings.partitions)

    def task(self, **fields: Any) -> dict[str, Any]:
        """A task as it stands on the inbox."""
        known = {"tenant_id": str(self.tenant), "user_id": str(self.user), "request_id": str(uuid4())}
        return {**known, "task_type": "route", "prompt": {"text": "hi"}, **fields}

    async def put(self, *tasks: dict[str, Any]) -> list[str]:
        """XADD onto the inbox, as a producer; the entries' ids."""
        async with connect(self.server.url("producer"), client_name="producer") as producer:
            added: list[Any] = [await producer.xadd(INBOX, {"data": json.dumps(task)}) for task in tasks]
        return [entry_id.decode() for entry_id in added]

    async def submitted(self, tenant: UUID | None = None) -> list[Envelope]:
        """The tasks in the log."""
        entries: Any = await self.admin.xrange(self.partition(tenant).tasks)
        return [EVENTS.decode(fields[b"data"]) for _, fields in entries]

    async def tasks(self, count: int) -> list[Envelope]:
        """Wait for so many tasks in the log; there must not be more."""

        async def enough() -> list[Envelope] | None:
            found = await self.submitted()
            return found if len(found) >= count else None

        found = await eventually(enough, f"{count} tasks")
        assert found is not None and len(found) == count
        return found

    async def dead_letters(self, count: int) -> list[dict[bytes, bytes]]:
        """Wait for so many dead letters; there must not be more."""

        async def enough() -> bool:
            return int(await self.admin.xlen(DEAD_LETTERS)) >= count

        await eventually(enough, f"{count} dead letters")
        entries: Any = await self.admin.xrange(DEAD_LETTERS)
        assert len(entries) == count
        return [fields for _, fields in entries]

    async def end(self, submitted: Envelope, end: Payload | None = None, *, record: bool = True) -> Envelope:
        """Write the end of a task, as policy and executor do; `record` false: only the event."""
        payload = end or success(submitted)
        event = new(
            payload,
            event_id=uuid4(),
            source="/skeldir/executor",
            subject=submitted.subject,
            now_ms=int(submitted.time.timestamp() * 1000) + 5,
            tenantid=submitted.tenantid,
            userid=submitted.userid,
            correlationid=submitted.correlationid,
        )
        partition = self.partition(submitted.tenantid)
        if record:
            fields = {"state": "ended", "result": result_of(event).model_dump_json()}
            await self.admin.hset(partition.task(UUID(submitted.subject)), mapping=fields)
        stream = partition.decisions if isinstance(payload, TaskBlocked) else partition.outcomes
        await self.admin.xadd(stream, event.to_entry())
        return event

    @asynccontextmanager
    async def everything_ends(self, how: Callable[[Envelope], Payload] | None = None) -> AsyncIterator[None]:
        """An executor and a policy of few words: each task that comes ends at once."""
        how = how or success
        after = "0-0"

        async def work() -> None:
            nonlocal after
            while True:
                reply: Any = await self.admin.xrange(self.partition().tasks, min=f"({after}")
                for entry_id, fields in reply:
                    event = EVENTS.decode(fields[b"data"])
                    await self.end(event, how(event))
                    after = entry_id.decode()
                await asyncio.sleep(0.005)

        task = asyncio.create_task(work())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _Server(uvicorn.Server):
    """Signals belong to pytest."""

    def install_signal_handlers(self) -> None:
        pass


async def _run(worker: Callable[[], Awaitable[None]]) -> None:
    await worker()


def ref(submitted: Envelope) -> TaskRef:
    """What every event about this task repeats."""
    assert isinstance(submitted.data, TaskSubmitted)
    return TaskRef.model_validate(submitted.data.task.model_dump(include=set(TaskRef.model_fields)))


def success(submitted: Envelope, text: str = "an answer") -> TaskSucceeded:
    """The executor's end of a call that went well."""
    usage = Usage(input_tokens=3, output_tokens=4, cost=from_cents("0.25"), latency_ms=7)
    return TaskSucceeded(
        task=ref(submitted),
        decision_id=uuid4(),
        was_cached=False,
        provider_attempted=True,
        output_text=text,
        usage=usage,
    )


def failure(submitted: Envelope, reason: str) -> TaskFailed:
    """The executor's end of a call that went wrong."""
    return TaskFailed(
        task=ref(submitted),
        decision_id=uuid4(),
        reason=reason,
        provider_attempted=True,
        counts_for_breaker=True,
        spend="none",
    )


def block(submitted: Envelope, reason: str) -> TaskBlocked:
    """Policy's end of a task that it refuses."""
    return TaskBlocked(
        task=ref(submitted), reason=reason, rule="test", breaker_state=BreakerState.CLOSED, control_position="0-0"
    )


@pytest.fixture(scope="session")
def log_server(new_folder: Callable[[], Path]) -> Iterator[EmbeddedValkey]:
    """Of these tests alone: they empty it, kill it, and look at streams that are one for all."""
    server = EmbeddedValkey(new_folder(), durability="fsync")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bench(log_server: EmbeddedValkey) -> AsyncIterator[Bench]:
    admin = connect(log_server.url("admin"), client_name="test")
    await admin.flushall()
    yield Bench(log_server, admin)
    await admin.aclose()


@pytest.fixture
async def gateway(bench: Bench) -> AsyncIterator[Gateway]:
    async with bench.gateway() as running:
        yield running


@pytest.fixture
async def key(bench: Bench, gateway: Gateway) -> str:
    """A producer's key of the bench's user."""
    return await bench.key(gateway)
