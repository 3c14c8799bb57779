"""A primary, a replica and three sentinels: connections follow the primary, and appends are on the replica first."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import RedisError

from shared.partitions import Partition
from shared.streams import replicated
from shared.streams.client import LogClient
from shared.streams.connection import connect
from shared.streams.lease import Fenced, Lease
from shared.streams.replicated import NotReplicated
from tests.valkeys import DOWN_AFTER_MS, WatchedValkeys

STREAM = Partition(0).tasks


@pytest.fixture(scope="module")
def pair(new_folder: Callable[[], Path]) -> Iterator[WatchedValkeys]:
    """The last test but one leaves the replica alone."""
    running = WatchedValkeys(new_folder, replicas=1)
    running.start()
    counts_as_down(running, 20_000)  # a primary that only stands still for a while is not replaced
    yield running
    running.stop()


def counts_as_down(pair: WatchedValkeys, after_ms: int) -> None:
    """To the sentinels: a server that has been silent for so long."""
    for sentinel in pair.sentinels:
        with redis.Redis(port=sentinel.port) as client:
            client.execute_command("SENTINEL", "SET", pair.name, "down-after-milliseconds", after_ms)


async def insist(log: LogClient, number: int) -> int:
    """Append until it is taken; how often it was tried."""
    async with asyncio.timeout(60):
        for tries in range(1, 1000):
            try:
                await log.xadd(STREAM, {"n": str(number)})
            except RedisError:
                await asyncio.sleep(0.1)
            else:
                return tries
    raise AssertionError


async def test_a_role_of_its_own_reaches_the_primary(pair: WatchedValkeys) -> None:
    log = connect(pair.url("ledger"), client_name="test")
    assert (await log.info("server"))["tcp_port"] == pair.primary.port
    await log.aclose()


async def test_what_was_acknowledged_is_there_after_a_failover_and_stale_leases_are_refused(
    pair: WatchedValkeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `SKELDIR_MIN_REPLICAS=0`, which is the only way to go on with one server left."""
    sure, log = (connect(pair.url("admin"), client_name="test", min_replicas=few) for few in (None, 0))
    lease = Lease(sure, Partition(0).lease("policy"), "before", 60_000)
    token = await lease.take()
    acknowledged = 0
    with monkeypatch.context() as patient:
        patient.setattr(replicated, "WAIT_MS", 4000)  # for a replica that stands still
        for number in range(200):
            await sure.xadd(STREAM, {"n": str(number)})
            acknowledged = number
    counts_as_down(pair, DOWN_AFTER_MS)
    pair.primary.send(signal.SIGKILL)
    killed_at = time.monotonic()
    await insist(log, acknowledged + 1)
    print(f"\nanother server takes appends after {time.monotonic() - killed_at:.1f} s")
    assert (await log.info("server"))["tcp_port"] == pair.replicas[0].port
    entries = [int(fields[b"n"]) for _, fields in await log.xrange(STREAM)]
    assert entries == list(range(acknowledged + 2))
    assert int(await log.hget(Partition(0).lease("policy"), "token")) == token
    with pytest.raises(NotReplicated):
        await sure.xadd(STREAM, {"n": "alone"})
    after = Lease(log, Partition(0).lease("policy"), "after", 60_000)
    assert await after.take() == 0, "the lease is known there, too"
    with pytest.raises(Fenced):
        await after.commit(token, [("XADD", STREAM, "*", "n", "stolen")], [STREAM])
    await asyncio.gather(sure.aclose(), log.aclose())


async def test_without_a_sentinel_there_is_an_error_that_says_so() -> None:
    log = connect("redis+sentinel://nobody@127.0.0.1:1/skeldir", client_name="test")
    with pytest.raises(RedisError, match="the sentinels name no primary"):
        await log.ping()
    await log.aclose()
