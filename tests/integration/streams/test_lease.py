"""Leases on a real server: one holder at a time, and a paused one writes nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from shared.partitions import Partition
from shared.streams.lease import Fenced, Lease
from shared.streams.spread import Spread

TTL_MS = 150
HOLDS_MS = 3000
"""For what holds only while the lease does: longer than a machine stands still."""


class Bench:
    """A partition's policy lease, in policy's own role."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.partition = Partition(uuid4().int % 10**9 + 10**6)

    def lease(self, owner: str, ttl_ms: int = TTL_MS, has: int | None = None) -> Lease:
        spread = None if has is None else Spread(lambda: has, 60.0)
        return Lease(self.redis, self.partition.lease("policy"), owner, ttl_ms, spread)

    async def write(self, lease: Lease, token: int, value: str) -> None:
        command = ("XADD", self.partition.decisions, "*", "v", value)
        await lease.commit(token, [command, ("HSET", self.partition.policy, "at", value)], [self.partition.decisions])

    async def written(self) -> list[bytes]:
        entries: Any = await self.redis.xrange(self.partition.decisions)
        return [fields[b"v"] for _, fields in entries]

    async def taken(self, lease: Lease) -> int:
        """Take it as soon as it is free."""
        async with asyncio.timeout(30):
            while not (token := await lease.take()):
                await asyncio.sleep(0.005)
        return token


@pytest.fixture
async def bench(redis_as: Callable[[str], Redis]) -> Bench:
    return Bench(redis_as("policy"))


async def test_one_holder_at_a_time(bench: Bench) -> None:
    one, two = bench.lease("one", 60_000), bench.lease("two", 60_000)
    assert await one.take() == 1
    assert await two.take() == 0
    assert await two.renew() == 0
    assert await one.renew() == 1


async def test_a_second_owner_after_the_first_ran_out_gets_a_higher_token(bench: Bench) -> None:
    one, two = bench.lease("one"), bench.lease("two", 60_000)
    first = await one.take()
    assert await bench.taken(two) == first + 1
    assert await one.renew() == 0


async def test_a_paused_owners_commit_is_refused_and_writes_nothing(bench: Bench) -> None:
    paused, successor = bench.lease("one"), bench.lease("two")
    old = await paused.take()
    await bench.write(paused, old, "before")
    new = await bench.taken(successor)
    with pytest.raises(Fenced):
        await bench.write(paused, old, "from the past")
    await bench.write(successor, new, "after")
    assert await bench.written() == [b"before", b"after"]
    assert await bench.redis.hget(bench.partition.policy, "at") == b"after"


async def test_the_same_owner_gets_a_new_token_after_its_lease_ran_out(bench: Bench) -> None:
    """What it sent before may still be on its way, and must not be taken for something new."""
    lease = bench.lease("one")
    old = await lease.take()
    async with asyncio.timeout(30):
        while (new := await bench.lease("one", TTL_MS).renew()) == old:
            await asyncio.sleep(TTL_MS / 1000 * 1.2)  # the lease's own time: to ask sooner would renew it
    assert new == old + 1
    with pytest.raises(Fenced):
        await bench.write(lease, old, "from the past")


async def test_taking_afresh_makes_a_new_token_even_while_it_holds(bench: Bench) -> None:
    lease = bench.lease("one", 60_000)
    assert (await lease.take(), await lease.take(), await lease.renew()) == (1, 2, 2)


async def test_given_back_it_is_free_at_once_and_others_cannot_give_it_back(bench: Bench) -> None:
    one, two = bench.lease("one", 60_000), bench.lease("two", 60_000)
    await one.take()
    await two.give_back()
    assert await two.take() == 0
    await one.give_back()
    assert await two.take() == 2


async def test_a_lost_lease_key_fences_everybody(bench: Bench, redis_as: Callable[[str], Redis]) -> None:
    lease = bench.lease("one", 60_000)
    token = await lease.take()
    await redis_as("admin").delete(bench.partition.lease("policy"))
    with pytest.raises(Fenced):
        await bench.write(lease, token, "nobody holds it")
    assert await lease.renew() == 0, "it is not made again with the token that it had"
    with pytest.raises(Fenced):
        await bench.write(lease, token, "nobody holds it")
    assert await lease.take() == 1


async def test_the_same_token_of_another_owner_is_refused(bench: Bench, redis_as: Callable[[str], Redis]) -> None:
    """A failover to a server that had not heard of the last token: it is given once more."""
    one, two = bench.lease("one", 60_000), bench.lease("two", 60_000)
    token = await one.take()
    await redis_as("admin").delete(bench.partition.lease("policy"))
    assert await two.take() == token
    with pytest.raises(Fenced):
        await bench.write(one, token, "stale")
    await bench.write(two, token, "good")
    assert await bench.written() == [b"good"]


async def test_a_lease_goes_to_who_has_two_fewer(bench: Bench) -> None:
    holder, even, poor = (bench.lease(owner, HOLDS_MS, has) for owner, has in (("holder", 3), ("even", 2), ("poor", 1)))
    token = await holder.take()
    assert await holder.wanted() == -1
    assert await even.take() == 0 and await holder.wanted() == 2
    assert await poor.take() == 0 and await holder.wanted() == 1
    assert await even.take() == 0 and await holder.wanted() == 1, "the word of who has fewest stands"
    keeping = asyncio.create_task(holder.keep(token))
    async with asyncio.timeout(30):
        while not keeping.done():
            assert await poor.take() == 0
            await asyncio.sleep(HOLDS_MS / 40_000)
    await keeping
    await holder.give_back()
    assert await poor.take() == token + 1 and await poor.wanted() == -1


async def test_a_wish_is_forgotten_when_it_is_old(bench: Bench) -> None:
    holder, other = bench.lease("holder", 60_000, has=3), bench.lease("other", ttl_ms=1, has=0)
    await holder.take()
    await other.take()
    async with asyncio.timeout(30):
        while await holder.wanted() != -1:
            await asyncio.sleep(0.002)


async def test_who_keeps_a_lost_lease_is_told(bench: Bench) -> None:
    one, two = bench.lease("one"), bench.lease("two", 60_000)
    first = await one.take()
    await bench.taken(two)
    with pytest.raises(Fenced):
        await one.keep(first)
