"""Webhooks on real servers: from the books' transaction to a signed request, whatever the receiver does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from services.ledger import books, sessions
from services.ledger.webhooks import report
from services.ledger.webhooks.outbox import Outbox
from services.ledger.webhooks.sender import Sender
from shared.control_state import ControlState, Webhook
from shared.settings import Settings
from shared.webhook_signing import secret_of, shown
from tests.integration.ledger.conftest import Bench, eventually
from tests.webhook_receiver import Receiver, receiving

KEY = "a key that has at least 32 characters"
ENDS = frozenset({"task.succeeded", "task.failed"})
ONE_END = (("submit", 0, 1), ("succeed", 0, 5))


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@dataclass
class Orders:
    """What the outbox and the sender know of the control stream."""

    state: ControlState = field(default_factory=ControlState)
    is_stale: bool = False


class World:
    """Webhooks of this test's own, the books, and senders."""

    def __init__(self, bench: Bench, receiver: Receiver, ledger: Any) -> None:
        self.bench = bench
        self.receiver = receiver
        self.ledger = ledger
        self.orders = Orders()

    def hook(self, path: str, tenant: UUID | None = None, url: str | None = None, name: str = "") -> Webhook:
        """Set one."""
        name = name or f"wh_{uuid4().hex[:12]}"
        found = Webhook(name, tenant or self.bench.tenant, url or f"{self.receiver.url}{path}", ENDS, "ann", len(name))
        self.orders.state = ControlState(webhooks={**self.orders.state.webhooks, name: found})
        return found

    async def happens(self, ops: Any = ONE_END, bench: Bench | None = None, max_waiting: int = 100) -> int:
        """Take events into the books as the writer does; how many ends."""
        bench = bench or self.bench
        records = [
            record for record in bench.history(ops).records() if record.type in ENDS or record.type == "task.submitted"
        ]
        outbox = Outbox(cast(Any, self.orders), max_waiting)
        await books.commit(self.ledger, {}, {}, records, outbox=outbox)
        return sum(record.type in ENDS for record in records)

    @asynccontextmanager
    async def sender(self, **changed: Any) -> AsyncIterator[None]:
        """A sender, until the block ends; it is then killed, not stopped."""
        soon = {"webhook_timeout_ms": 60_000, "webhook_retry_ms": 10, "webhooks_allow_private": True}
        settings = Settings(webhook_secret_key=SecretStr(KEY)).model_copy(update={**soon, **changed})
        async with sessions.pool(self.bench.database_url, name="sender", size=4) as pool:
            outbox = Outbox(cast(Any, self.orders), 100)
            running = asyncio.create_task(Sender(pool, cast(Any, self.orders), outbox, settings).run())
            try:
                yield
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def came(self, path: str, count: int) -> list[Any]:
        """Wait for so many requests there."""

        async def enough() -> bool:
            return len(self.receiver.at(path)) >= count

        await eventually(enough, f"{count} requests at {path}")
        return self.receiver.at(path)

    async def nothing_waits(self, hook: Webhook) -> None:
        """Wait until the queue of this webhook is empty."""

        async def empty() -> bool:
            query = "SELECT count(*) FROM webhook_messages WHERE webhook_id = $1 AND given_up_at IS NULL"
            return int(await self.ledger.fetchval(query, hook.webhook_id)) == 0

        await eventually(empty, "an empty queue")


@pytest.fixture
async def world(bench: Bench, receiver: Receiver, as_ledger: Any) -> World:
    return World(bench, receiver, as_ledger)


async def test_a_message_is_signed_and_tried_again_until_it_is_taken(world: World) -> None:
    path = f"/{uuid4()}"
    hook = world.hook(path)
    world.receiver.answers[path] = [(500, {}), (307, {"location": "/elsewhere"}), (429, {"retry-after": "0"})]
    assert await world.happens() == 1
    async with world.sender():
        await world.came(path, 4)
        await world.nothing_waits(hook)
    tries = world.receiver.at(path)
    assert len(tries) == 4 and not world.receiver.at("/elsewhere")
    assert len({one.headers["webhook-id"] for one in tries}) == 1 and len({one.body for one in tries}) == 1
    secret = shown(secret_of(KEY, hook.webhook_id))
    assert all(one.is_signed_by(secret) for one in tries)
    assert not any(one.is_signed_by(shown(secret_of(KEY, "wh_another"))) for one in tries)
    assert tries[0].message["type"] == "task.succeeded"
    assert tries[0].message["data"]["tenant_id"] == str(world.bench.tenant)


async def test_another_tenants_events_never_arrive(world: World) -> None:
    mine, theirs, path = f"/{uuid4()}", f"/{uuid4()}", f"/{uuid4()}"
    other = Bench(world.bench.redis_as, world.bench.database_url, world.bench.partition, uuid4(), (uuid4(), uuid4()))
    hooks = [world.hook(mine), world.hook(theirs, other.tenant), world.hook(path)]
    await world.happens(bench=other)
    await world.happens()
    # The last one's id goes to the other tenant while a message of the first waits.
    hooks[2] = world.hook(path, other.tenant, name=hooks[2].webhook_id)
    async with world.sender():
        await world.came(mine, 1)
        await world.came(theirs, 1)
        await world.nothing_waits(hooks[0])
    assert [one.message["data"]["tenant_id"] for one in world.receiver.at(mine)] == [str(world.bench.tenant)]
    assert [one.message["data"]["tenant_id"] for one in world.receiver.at(theirs)] == [str(other.tenant)]
    assert not world.receiver.at(path)


async def test_a_slow_receiver_delays_nobody_else(world: World) -> None:
    slow, quick = f"/{uuid4()}", f"/{uuid4()}"
    world.receiver.stuck.add(slow)
    world.hook(slow)
    hook = world.hook(quick)
    count = await world.happens(ONE_END * 12)
    async with world.sender(webhook_timeout_ms=60_000):
        await world.came(slow, 4)
        await world.came(quick, count)
        await world.nothing_waits(hook)
        assert len(world.receiver.at(slow)) == 4, "so many are under way at once"
    world.receiver.stuck.clear()


async def test_a_sender_that_dies_in_mid_sending_loses_nothing(world: World) -> None:
    path = f"/{uuid4()}"
    world.receiver.stuck.add(path)
    hook = world.hook(path)
    count = await world.happens(ONE_END * 6)
    # Twice as long what the dead one had taken is left to it.
    async with world.sender(webhook_timeout_ms=1500):
        await world.came(path, 1)
    world.receiver.stuck.clear()
    world.receiver.released.set()
    async with world.sender():
        await world.nothing_waits(hook)
    assert len({one.headers["webhook-id"] for one in world.receiver.at(path)}) == count


async def test_what_is_given_up_is_on_record_and_can_be_queued_again(world: World) -> None:
    path = f"/{uuid4()}"
    hook = world.hook(path)
    world.receiver.answers[path] = [(500, {})]
    await world.happens()
    async with world.sender(webhook_give_up_minutes=1e-9):
        await world.nothing_waits(hook)
    url = world.bench.database_url
    (failure,) = await report.failures(url, hook.webhook_id, 10)
    assert failure["problem"] == "answered 500; given up after 1 tries" and failure["type"] == "task.succeeded"
    assert await report.retry(url, hook.webhook_id) == 1
    async with world.sender():
        await world.came(path, 2)
        await world.nothing_waits(hook)
    assert await report.failures(url, hook.webhook_id, 10) == []


async def test_after_410_nothing_is_sent_until_it_is_set_again(world: World) -> None:
    path = f"/{uuid4()}"
    hook = world.hook(path)
    world.receiver.answers[path] = [(410, {})]
    await world.happens()
    async with world.sender():
        await world.nothing_waits(hook)
        await world.happens((*ONE_END, ("wait", 1, 0), *ONE_END))
        await world.nothing_waits(hook)
        assert len(world.receiver.at(path)) == 1
    assert (await report.counts(world.bench.database_url))[hook.webhook_id]["ended_ms"] == hook.since_ms
    again = Webhook(hook.webhook_id, hook.tenant_id, hook.url, hook.events, hook.actor, hook.since_ms + 1)
    world.orders.state = ControlState(webhooks={hook.webhook_id: again})
    await world.happens(ONE_END * 4)
    async with world.sender():
        await world.came(path, 2)


async def test_a_full_queue_is_a_recorded_gap_and_holds_nothing_up(world: World) -> None:
    hook = world.hook("/nobody-listens", url="http://127.0.0.1:9/")
    count = await world.happens(ONE_END * 8, max_waiting=3)
    found = (await report.counts(world.bench.database_url))[hook.webhook_id]
    assert (found["waiting"], found["skipped"]) == (3, count - 3)
    (gap,) = await report.failures(world.bench.database_url, hook.webhook_id, 10)
    assert gap["problem"] == f"{count - 3} messages were not queued: too many waited"


async def test_what_is_for_nobody_any_more_is_swept_away(world: World) -> None:
    removed, kept = world.hook("/removed"), world.hook("/kept")
    await world.happens()
    world.orders.state = ControlState(webhooks={kept.webhook_id: kept})
    others = await world.ledger.fetch("SELECT DISTINCT webhook_id, of_tenant FROM webhook_messages")
    for row in others:  # of other tests: theirs stay
        if row["webhook_id"] != removed.webhook_id:
            world.hook("/", row["of_tenant"], name=row["webhook_id"])
    async with sessions.pool(world.bench.database_url, name="sweep", size=1) as pool:
        orders: Any = world.orders
        sweeper = Sender(pool, orders, Outbox(orders, 1), Settings())
        orders.is_stale = True
        await sweeper.sweep()
        assert removed.webhook_id in await report.counts(world.bench.database_url), "not while orders are unknown"
        orders.is_stale = False
        await sweeper.sweep()
    found = await report.counts(world.bench.database_url)
    assert removed.webhook_id not in found and found[kept.webhook_id]["waiting"] == 1


@pytest.mark.parametrize("host", ["http://127.0.0.1", "https://localhost", "https://[::1]", "https://169.254.169.254"])
async def test_inner_addresses_are_refused(world: World, host: str) -> None:
    path = f"/{uuid4()}"
    hook = world.hook(path, url=f"{host}:{world.receiver.url.rpartition(':')[2]}{path}?token=secret")
    await world.happens()
    async with world.sender(webhooks_allow_private=False, webhook_give_up_minutes=1e-9):
        await world.nothing_waits(hook)
    (failure,) = await report.failures(world.bench.database_url, hook.webhook_id, 10)
    assert failure["problem"].startswith("refused: ") and "secret" not in failure["problem"]
    assert not world.receiver.at(f"{path}?token=secret")
