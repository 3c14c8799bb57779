"""The log server's client: a task that is told to stop stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as NoReply

from shared.streams import direct, wire
from shared.streams.client import LogClient
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedValkey

Wait = Callable[[float], Awaitable[None]]


async def test_a_cancellation_is_never_forgotten(redis_as: Callable[[str], Redis]) -> None:
    """Whenever it comes: while the command is sent, while its reply is awaited, or in between."""
    redis = redis_as("executor")

    async def reads_for_ever() -> None:
        while True:
            await redis.xread({"skeldir:control": "$"}, block=20)

    for turns in range(60):
        task = asyncio.create_task(reads_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=30)
        assert done, f"cancelled after {turns} turns of the loop, and went on"


async def test_cleaning_up_after_a_cancellation_may_still_use_the_client(redis_as: Callable[[str], Redis]) -> None:
    redis = redis_as("executor")
    cleaned: list[object] = []

    async def reads_then_cleans() -> None:
        try:
            await redis.xread({"skeldir:control": "$"}, block=60_000)
        finally:
            cleaned.append(await redis.ping())

    task = asyncio.create_task(reads_then_cleans())
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled() and cleaned == [True]


async def test_connections_that_the_server_closed_are_not_used_again(redis_as: Callable[[str], Redis]) -> None:
    """After a restart of the server: each idle one would fail once, minutes later perhaps, for a caller at the door."""
    redis, admin = redis_as("executor"), redis_as("admin")
    await asyncio.gather(*(redis.xread({"skeldir:control": "$"}, block=50) for _ in range(5)))
    idle = list(redis.connection_pool._available_connections)
    assert len(idle) == 5
    await admin.client_kill_filter(user="executor", skipme=True)
    async with asyncio.timeout(30):
        while not all([await one.can_read() for one in idle]):
            await asyncio.sleep(0.01)
    assert await asyncio.gather(*(redis.ping() for _ in range(10))) == [True] * 10


@pytest.fixture
async def wait(monkeypatch: pytest.MonkeyPatch) -> Wait:
    """Lets so many seconds pass for the event loop, at once: what is under way begins before, and timers end after."""
    loop, passed_s = asyncio.get_running_loop(), 0.0
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + passed_s)

    async def wait(seconds: float) -> None:
        nonlocal passed_s
        await asyncio.sleep(0.1)
        passed_s += seconds
        await asyncio.sleep(0.1)

    return wait


async def test_a_reply_that_does_not_come_is_given_up_in_its_time(redis_as: Callable[[str], Redis], wait: Wait) -> None:
    redis = redis_as("executor")
    assert await redis.ping()
    reading = asyncio.create_task(redis.xread({"skeldir:control": "$"}, block=60_000))
    await wait(0)
    assert not reading.done()
    await wait(direct.SOCKET_TIMEOUT_S)
    with pytest.raises(NoReply):
        await reading
    assert await redis.ping() is True  # not the answer to what was asked before


async def test_each_reply_has_its_whole_time(
    redis_as: Callable[[str], Redis], monkeypatch: pytest.MonkeyPatch, wait: Wait
) -> None:
    """One timer watches over all of a connection's replies, and a connection that rests is not disturbed by it."""
    monkeypatch.setattr(direct, "SOCKET_TIMEOUT_S", 60)
    redis = redis_as("executor")
    for _ in range(2):
        await redis.ping()
        await wait(40)
        reading = asyncio.create_task(redis.xread({"skeldir:control": "$"}, block=300))
        await wait(40)  # the ping's time is over in the midst of it
        await reading
    await wait(70)
    assert await redis.ping() is True
    assert len(redis.connection_pool._available_connections) == 1


async def test_a_server_that_goes_is_a_lost_connection(redis_as: Callable[[str], Redis]) -> None:
    redis, admin = redis_as("executor"), redis_as("admin")
    reading = asyncio.create_task(redis.xread({"skeldir:control": "$"}, block=60_000))
    async with asyncio.timeout(30):
        while not await admin.client_kill_filter(user="executor", skipme=True):
            await asyncio.sleep(0.01)
        with pytest.raises(ConnectionLost):
            await reading


async def test_what_is_large_goes_there_and_back(redis_as: Callable[[str], Redis]) -> None:
    redis = redis_as("admin")
    large = bytes(range(256)) * 80_000
    await redis.set("{skeldir:large}", large)
    assert await redis.get("{skeldir:large}") == large
    assert isinstance(redis, LogClient)
    assert await redis.together([("GET", "{skeldir:large}")] * 3) == [large] * 3
    await redis.delete("{skeldir:large}")


async def test_what_nobody_reads_stays_with_the_server(redis_as: Callable[[str], Redis]) -> None:
    redis = redis_as("admin")
    subscriber = redis.pubsub()
    await subscriber.subscribe("{skeldir:large}")
    assert (await subscriber.get_message(timeout=30))["type"] == "subscribe"
    for _ in range(100):
        await redis.publish("{skeldir:large}", b"x" * 100_000)
    assert len(subscriber.connection._reader._buffer) < wire.UNREAD_BYTES * 2
    for _ in range(100):
        assert len((await subscriber.get_message(timeout=30))["data"]) == 100_000
    await subscriber.aclose()


async def test_a_server_on_a_socket_with_a_path(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """The wheel's server has none, so a front passes it on."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(_copy(reader, to_there), _copy(there, writer), return_exceptions=True)

    path, user = tmp_path / "socket", valkey.url("executor").partition("//")[2].partition("@")[0]
    async with await asyncio.start_unix_server(pass_on, path):
        redis = connect(f"unix://{user}@{path}", client_name="test")
        assert await redis.ping() is True
        await redis.aclose()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while some := await source.read(1 << 16):
            target.write(some)
            await target.drain()
    target.close()
