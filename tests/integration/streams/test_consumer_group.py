"""What a consumer group must hold on a real server, whoever dies: nothing missed, what is in work left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from shared.streams.consumer_group import ConsumerGroup

GROUP = "executor"
OLD_MS, YOUNG_MS = 600_000, 300_000
"""What is as old as the first is claimed after the second; what was touched just now is not, whoever stands still."""


class Bench:
    """One stream, its writer, and consumers in the role that reads it in production."""

    def __init__(self, admin: Redis, executor: Redis) -> None:
        self.admin = admin
        self.executor = executor
        self.stream = f"{{skeldir:{uuid4().int % 10**9 + 10**6}}}:decisions"

    def consumer(self, name: str) -> ConsumerGroup:
        return ConsumerGroup(self.executor, self.stream, GROUP, name)

    async def add(self, count: int) -> list[str]:
        added: list[Any] = [await self.admin.xadd(self.stream, {"n": number}) for number in range(count)]
        return [entry_id.decode() for entry_id in added]

    async def age(self, consumer: str, entry_ids: list[str]) -> None:
        """As if the consumer had not touched these for ten minutes."""
        old: Any = {"min_idle_time": 0, "message_ids": entry_ids, "idle": OLD_MS, "justid": True}
        await self.admin.xclaim(self.stream, GROUP, consumer, **old)

    async def pending(self) -> int:
        return int((await self.admin.xpending(self.stream, GROUP))["pending"])

    async def consumers(self) -> set[str]:
        return {row["name"].decode() for row in await self.admin.xinfo_consumers(self.stream, GROUP)}

    async def claimed(self, consumer: ConsumerGroup, idle_ms: int, count: int) -> list[str]:
        """Claim until `count` came, or fail."""
        taken: list[str] = []
        async with asyncio.timeout(30):
            while len(taken) < count:
                taken += ids(await consumer.claim(idle_ms))
                await asyncio.sleep(0.005)
        return taken


@pytest.fixture
async def bench(redis_as: Callable[[str], Redis]) -> AsyncIterator[Bench]:
    one = Bench(redis_as("admin"), redis_as("executor"))
    yield one
    await one.admin.delete(one.stream)


def ids(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[str]:
    return [entry_id.decode() for entry_id, _ in entries]


async def test_what_was_there_before_the_group_is_read(bench: Bench) -> None:
    added = await bench.add(3)
    consumer = bench.consumer("a")
    await consumer.ensure()
    await consumer.ensure()  # a second executor does the same
    assert ids(await consumer.read(10, None)) == added


async def test_a_group_can_be_made_before_its_stream(bench: Bench) -> None:
    consumer = bench.consumer("a")
    await consumer.ensure()
    reading = asyncio.create_task(consumer.read(10, 4000))
    added = await bench.add(1)
    assert ids(await reading) == added


@pytest.mark.parametrize("lost", ["group", "stream"])
async def test_a_lost_group_is_made_again_from_the_start(bench: Bench, lost: str) -> None:
    consumer = bench.consumer("a")
    await consumer.ensure()
    if lost == "group":
        added = await bench.add(2)
        await bench.admin.xgroup_destroy(bench.stream, GROUP)
    else:
        await bench.admin.delete(bench.stream)
        added = await bench.add(2)
    assert await consumer.read(10, None) == []
    assert ids(await consumer.read(10, None)) == added


async def test_a_lost_group_stops_no_claim_and_no_heartbeat(bench: Bench) -> None:
    consumer = bench.consumer("a")
    added = await bench.add(1)
    assert await consumer.claim(0) == []
    await bench.admin.xgroup_destroy(bench.stream, GROUP)
    await consumer.keep(added)
    await bench.admin.xgroup_destroy(bench.stream, GROUP)
    assert await consumer.own() == []
    assert ids(await consumer.read(10, None)) == added


async def test_no_more_is_read_than_there_is_room_for(bench: Bench) -> None:
    await bench.add(10)
    consumer = bench.consumer("a")
    await consumer.ensure()
    assert len(await consumer.read(3, None)) == 3
    assert await bench.pending() == 3


async def test_entries_whose_delivery_was_lost_are_found_among_ones_own(bench: Bench) -> None:
    """The server gave them out; the reply never arrived. With `>` nobody would see them again."""
    added = await bench.add(5)
    consumer = bench.consumer("a")
    await consumer.ensure()
    await consumer.read(4, None)  # imagine this reply lost
    await consumer.acknowledge(added[:1])
    await bench.admin.xdel(bench.stream, added[1])
    first = await consumer.own(count=2)
    assert ids(first) == added[1:3] and first[0][1] == {}
    assert ids(await consumer.own(after=added[2])) == added[3:4]
    assert await bench.consumer("b").own() == []


async def test_a_dead_consumers_entries_are_claimed_in_bulk(bench: Bench) -> None:
    """Also those beyond the first page of young ones, where a claim that always begins at 0 never looks."""
    dead, living, heir = (bench.consumer(name) for name in ("dead", "living", "heir"))
    await dead.ensure()
    await bench.add(3000)
    young = ids(await living.read(2500, None))
    left = ids(await dead.read(500, None))
    await bench.age("dead", left)
    await bench.age("living", young)
    await living.keep(young)
    assert ids(await heir.claim(YOUNG_MS, count=1000)) == left
    assert ids(await heir.claim(YOUNG_MS, count=1000)) == []


async def test_a_claim_takes_no_more_than_asked(bench: Bench) -> None:
    dead, heir = bench.consumer("dead"), bench.consumer("heir")
    await dead.ensure()
    await bench.add(300)
    await dead.read(300, None)
    assert len(await heir.claim(0, count=7)) == 7


async def test_what_is_in_work_and_kept_young_is_not_claimed(bench: Bench) -> None:
    worker, thief = bench.consumer("worker"), bench.consumer("thief")
    await worker.ensure()
    kept, left = await bench.add(2)
    await worker.read(2, None)
    await bench.age("worker", [left])
    stolen: list[str] = []
    for _ in range(3):
        await bench.age("worker", [kept])
        await worker.keep([kept])
        stolen += ids(await thief.claim(YOUNG_MS))
    assert stolen == [left]


async def test_what_was_handed_back_can_be_claimed_at_once_and_the_rest_not(bench: Bench) -> None:
    stopping, other = bench.consumer("stopping"), bench.consumer("other")
    await stopping.ensure()
    given, kept = await bench.add(2)
    await stopping.read(10, None)
    await stopping.hand_back([given], 60_000)
    assert ids(await other.claim(60_000)) == [given]
    assert ids(await stopping.own()) == [kept]


async def test_a_heartbeat_does_not_count_as_a_delivery(bench: Bench) -> None:
    worker = bench.consumer("worker")
    await worker.ensure()
    added = await bench.add(1)
    await worker.read(1, None)
    for _ in range(3):
        await worker.keep(added)
    (row,) = await bench.admin.xpending_range(bench.stream, GROUP, "-", "+", 10)
    assert row["times_delivered"] == 1


async def test_references_to_trimmed_entries_are_dropped(bench: Bench) -> None:
    dead, heir = bench.consumer("dead"), bench.consumer("heir")
    await dead.ensure()
    added = await bench.add(3)
    await dead.read(3, None)
    await bench.admin.xdel(bench.stream, *added[:2])
    assert await bench.claimed(heir, 0, 1) == added[2:]
    await heir.acknowledge(added[2:])
    assert await bench.pending() == 0


async def test_a_consumer_leaves_only_when_nothing_is_left_in_its_name(bench: Bench) -> None:
    consumer = bench.consumer("a")
    await consumer.ensure()
    added = await bench.add(1)
    await consumer.read(1, None)
    await consumer.leave()
    assert await bench.consumers() == {"a"} and await bench.pending() == 1
    await consumer.acknowledge(added)
    await consumer.leave()
    assert await bench.consumers() == set()


async def test_silent_consumers_are_swept_out_with_their_pending_entries_kept(bench: Bench) -> None:
    gone, owing, reading = (bench.consumer(name) for name in ("gone", "owing", "reading"))
    await gone.ensure()
    await gone.read(1, 1)
    await bench.add(1)
    await owing.read(1, None)
    await asyncio.sleep(0.2)  # the consumers' own age: nothing to poll for
    await reading.read(1, 1)
    assert await reading.sweep(YOUNG_MS) == 0, "nobody was silent for that long"
    swept = await reading.sweep(150)
    left = await bench.consumers()
    # Who has just read is silent for as long as the machine stands still.
    assert swept == 3 - len(left) and left in ({"owing"}, {"owing", "reading"})
    assert await bench.pending() == 1
