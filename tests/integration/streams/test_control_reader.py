"""The control reader on a real server: an order arrives, a malformed one stops nobody, a lost stream is noticed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from redis.asyncio import Redis

from shared.control_state import ControlState
from shared.events.control import parse_control
from shared.events.tasks import TaskRef, TaskType
from shared.partitions import CONTROL
from shared.streams import control_reader
from shared.streams.connection import connect
from shared.streams.control_reader import ControlReader
from skeldir.embedded import EmbeddedValkey

TENANT, USER = uuid4(), uuid4()
REF = TaskRef(task_id=uuid4(), request_id="r", task_type=TaskType.ROUTE, provider="stub", model="model")


@asynccontextmanager
async def following(reader: ControlReader) -> AsyncIterator[None]:
    task = asyncio.create_task(reader.follow())
    try:
        await until(lambda: not reader.is_stale)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.002)


async def order(redis: Redis, **event: object) -> str:
    entry_id: Any = await redis.xadd(CONTROL, {"data": orjson.dumps(event)})
    return str(entry_id, "ascii")


def engaged(provider: str) -> dict[str, object]:
    return {"type": "kill_switch.engaged", "scope": {"provider": provider}, "reason": "test", "actor": "tester"}


def stops(state: ControlState, provider: str) -> bool:
    return (
        state.switch_for(TENANT, USER, REF.model_copy(update={"provider": provider}), int(time.time() * 1000))
        is not None
    )


async def test_orders_arrive_in_milliseconds_from_before_and_after(redis_as: Callable[[str], Redis]) -> None:
    operator, reader = redis_as("operator"), ControlReader(redis_as("executor"), 2000)
    before, after = f"p-{uuid4()}", f"p-{uuid4()}"
    seen: list[str] = []
    reader.on_change(lambda state: seen.append(state.position))
    await order(operator, **engaged(before))
    async with following(reader):
        assert stops(reader.state, before)
        last = await order(operator, **engaged(after))
        await until(lambda: stops(reader.state, after))
        assert seen[-1] == last
        await order(operator, **{**engaged(after), "type": "kill_switch.released"})
        await until(lambda: not stops(reader.state, after))


async def test_more_than_a_page_is_caught_up_at_once(
    redis_as: Callable[[str], Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_reader, "PAGE", 3)
    operator, reader = redis_as("operator"), ControlReader(redis_as("executor"), 60_000)
    names = [f"p-{uuid4()}" for _ in range(10)]
    for name in names:
        await order(operator, **engaged(name))
    await reader.catch_up()
    assert all(stops(reader.state, name) for name in names) and not reader.is_stale


@pytest.mark.parametrize(
    "fields",
    [
        {"data": b"\xff"},
        {"data": b"[]"},
        {"nothing": b"x"},
        {"data": b'{"type": "kill_switch.exploded"}'},
        {
            "data": b'{"type": "limits.set", "scope": {"tenant": "'
            + str(TENANT).encode()
            + b'"}, "monthly_cents": "NaN"}'
        },
        # Valid, and once too much for the arithmetic: there is no later hour than this year's last.
        {"data": orjson.dumps({**engaged(f"p-{uuid4()}"), "until": "9999-12-31T23:59:59-12:00"})},
    ],
)
async def test_a_strange_entry_stops_nobody(redis_as: Callable[[str], Redis], fields: dict[str, bytes]) -> None:
    operator, reader = redis_as("operator"), ControlReader(redis_as("executor"), 2000)
    async with following(reader):
        await operator.xadd(CONTROL, fields)
        name = f"p-{uuid4()}"
        await order(operator, **engaged(name))
        await until(lambda: stops(reader.state, name))


async def test_an_entry_that_breaks_the_fold_stops_nobody(
    redis_as: Callable[[str], Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, reader = redis_as("operator"), ControlReader(redis_as("executor"), 2000)
    name, poison = f"p-{uuid4()}", f"p-{uuid4()}"

    def breaks(data: bytes | None) -> object:
        if data and poison.encode() in data:
            raise ArithmeticError("nobody foresaw this")
        return parse_control(data)

    monkeypatch.setattr(control_reader, "parse_control", breaks)
    async with following(reader):
        await order(operator, **engaged(poison))
        await order(operator, **engaged(name))
        await until(lambda: stops(reader.state, name))


async def test_it_is_stale_until_it_has_read_and_fresh_at_once(
    redis_as: Callable[[str], Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_reader, "HEARTBEAT_MS", 4000)  # longer than a machine stands still
    reader = ControlReader(redis_as("executor"), 60_000)
    assert reader.is_stale
    started = time.monotonic()
    async with following(reader):
        assert time.monotonic() - started < control_reader.HEARTBEAT_MS / 1000, (
            "waited for a heartbeat before the first answer"
        )


async def test_a_reply_that_was_held_up_proves_nothing_about_now(
    redis_as: Callable[[str], Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is paused while an empty reply lies in its socket must not wake up believing it is up to date."""
    reader = ControlReader(redis_as("executor"), 600)

    async def held_up(*_: object) -> dict[str, object]:
        await asyncio.sleep(0.9)
        return {}

    await reader.catch_up()
    monkeypatch.setattr(control_reader, "read_after", held_up)
    await reader._beat()
    assert reader.is_stale


async def test_it_becomes_stale_when_the_server_is_gone_and_fresh_when_it_is_back(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    redis = connect(server.url("executor"), client_name="test")
    try:
        reader = ControlReader(redis, 400)
        async with following(reader):
            name = f"p-{uuid4()}"
            async with connect(server.url("operator"), client_name="test") as operator:
                await order(operator, **engaged(name))
            await until(lambda: stops(reader.state, name))
            await asyncio.to_thread(server.stop)
            await until(lambda: reader.is_stale)
            assert stops(reader.state, name), "the last known order is kept"
            await asyncio.to_thread(server.start)
            await until(lambda: not reader.is_stale)
            assert stops(reader.state, name)
    finally:
        await redis.aclose()
        server.stop()
