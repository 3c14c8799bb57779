"""Calls that travel together get their own replies, and each hears of its own error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from shared.streams.client import LogClient
from shared.streams.connection import connect
from shared.streams.pipeline import ScriptPipeline
from shared.streams.script import Script

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
FAIL = "return redis.error_reply('NO not this one')"
KEY = "{skeldir:pipeline}:counter"


class CountsRoundTrips(LogClient):
    trips = 0

    async def together(self, commands: Any) -> list[Any]:
        self.trips += 1
        return await super().together(commands)


@pytest.fixture
async def redis(valkey: Any) -> Any:
    client = CountsRoundTrips.from_pool(connect(valkey.url("admin"), client_name="test").connection_pool)
    await client.delete(KEY)
    yield client
    await client.aclose()


async def test_concurrent_callers_share_round_trips_and_get_their_own_replies(redis: CountsRoundTrips) -> None:
    pipeline, add = ScriptPipeline(redis), Script(redis, ADD)
    replies = await asyncio.gather(*(pipeline.run(add, [KEY], [1]) for _ in range(500)))
    assert sorted(replies) == list(range(1, 501))
    assert redis.trips <= 6


async def test_an_error_reaches_only_its_own_caller(redis: CountsRoundTrips) -> None:
    pipeline, add, fail = ScriptPipeline(redis), Script(redis, ADD), Script(redis, FAIL)
    calls = [pipeline.run(fail if n == 3 else add, [KEY], [1]) for n in range(6)]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(replies.pop(3), ResponseError)
    assert replies == [1, 2, 3, 4, 5]


async def test_a_server_that_forgot_the_scripts_learns_them_and_runs_each_once(redis: CountsRoundTrips) -> None:
    pipeline, add = ScriptPipeline(redis), Script(redis, ADD)
    await pipeline.run(add, [KEY], [1])
    await redis.script_flush()
    replies = await asyncio.gather(*(pipeline.run(add, [KEY], [1]) for _ in range(10)))
    assert sorted(replies) == list(range(2, 12))


async def test_commands_and_scripts_keep_their_order(redis: CountsRoundTrips) -> None:
    pipeline, add = ScriptPipeline(redis), Script(redis, ADD)
    replies = await asyncio.gather(
        pipeline.command("SET", KEY, 40), pipeline.run(add, [KEY], [2]), pipeline.command("GET", KEY)
    )
    assert list(replies[1:]) == [42, b"42"]


async def test_a_cancelled_caller_harms_nobody(redis: CountsRoundTrips) -> None:
    pipeline, add = ScriptPipeline(redis), Script(redis, ADD)
    calls = [asyncio.create_task(pipeline.run(add, [KEY], [1])) for _ in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(replies[1], asyncio.CancelledError)
    assert replies[0] == 1 and replies[2] == 3


async def test_a_dead_server_is_an_error_for_everyone_who_waits(redis_as: Callable[[str], Redis]) -> None:
    dead = connect("redis://127.0.0.1:1/0", client_name="nobody")
    pipeline = ScriptPipeline(dead)
    replies = await asyncio.gather(*(pipeline.command("GET", KEY) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(reply, RedisError) for reply in replies)
    await dead.aclose()


async def test_what_cannot_be_sent_is_an_error_too_and_the_next_call_works(redis: CountsRoundTrips) -> None:
    pipeline = ScriptPipeline(redis)
    async with asyncio.timeout(30):
        with pytest.raises(Exception, match="must be str"):
            await pipeline.command("SET", KEY, object())  # type: ignore[arg-type]
        await pipeline.command("SET", KEY, 1)
