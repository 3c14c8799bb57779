"""The log server's memory runs out: the door closes before the server refuses, stops get through, nothing is lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError

from services.gateway.capacity import is_full
from services.gateway.metrics import LOG_MEMORY, REFUSALS
from shared.partitions import CONTROL, DEAD_LETTERS, INBOX
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedValkey
from tests.integration.gateway.conftest import Bench, eventually

MEMORY_MB = 20
TASK = {"task_type": "route", "prompt": {"text": "hi"}}
ORDER = {"type": "kill_switch.engaged", "scope": {"model": "m"}, "reason": "runaway", "actor": "test"}


@pytest.fixture(scope="module")
def small_server(new_folder: Callable[[], Path]) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(new_folder(), memory_mb=MEMORY_MB)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bench(small_server: EmbeddedValkey) -> AsyncIterator[Bench]:
    admin = connect(small_server.url("admin"), client_name="test")
    await admin.flushall()
    await admin.config_set("maxmemory", f"{MEMORY_MB}mb")
    yield Bench(small_server, admin)
    await admin.aclose()


async def fill(bench: Bench, share: float) -> None:
    """With something that takes so much of the server's memory, to a thousandth."""
    for step in range(100_000):
        memory = await bench.admin.info("memory")
        left = int(memory["maxmemory"] * share) - memory["used_memory"]
        if left < memory["maxmemory"] / 1000:
            return
        await bench.admin.set(f"ballast:{step}", b"x" * min(left // 2, 1 << 20))


async def test_the_door_closes_before_the_server_refuses_and_opens_again(bench: Bench) -> None:
    assert int((await bench.admin.config_get("maxmemory"))["maxmemory"]) == MEMORY_MB << 20
    async with bench.gateway() as gateway:
        producer, operator = await bench.key(gateway), await bench.key(gateway, "operator", user=None)
        accepted = await gateway.post("/v1/tasks", TASK, producer)
        assert accepted.status_code == 202
        await fill(bench, 0.88)

        async def not_ready() -> bool:
            return (await gateway.client.get("/readyz")).status_code == 503

        await eventually(not_ready, "it says that memory is short")
        before = REFUSALS.labels("503", "log_full")._value.get()
        refused = await gateway.post("/v1/tasks", TASK, producer)
        assert (refused.status_code, refused.json()["code"]) == (503, "log_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert REFUSALS.labels("503", "log_full")._value.get() == before + 1
        assert 0.85 < LOG_MEMORY._value.get() < 1
        assert await bench.admin.set("not", "full yet"), "the door was closed before the server was"
        assert (await gateway.post("/v1/control", ORDER, operator)).status_code == 202

        await bench.admin.config_set("maxmemory", "2mb")  # over the edge: no write of anybody's, but a stop
        with pytest.raises(OutOfMemoryError):
            await bench.admin.xadd(CONTROL, {"data": "{}"})
        assert (await gateway.post("/v1/control", ORDER, operator)).status_code == 202
        assert await bench.admin.xlen(CONTROL) >= 4

        await bench.admin.config_set("maxmemory", f"{MEMORY_MB}mb")
        await bench.admin.delete(*await bench.admin.keys("ballast:*"))
        await gateway.ready()
        assert (await gateway.post("/v1/tasks", TASK, producer)).status_code == 202
        assert len(await bench.submitted()) == 2


async def test_an_inbox_that_filled_the_memory_is_worked_off_and_nothing_of_it_lost(bench: Bench) -> None:
    """Producers write past the gateway. What filled the memory leaves it as it is moved."""
    put: list[str] = []
    async with connect(bench.server.url("producer"), client_name="producer") as producer:
        with suppress(OutOfMemoryError):
            for _ in range(10_000):
                task = bench.task(prompt={"text": "x" * 50_000})
                await producer.xadd(INBOX, {"data": json.dumps(task)})
                put.append(str(task["request_id"]))
    assert 100 < len(put) < 10_000
    await bench.admin.config_set("maxmemory", f"{MEMORY_MB - 4}mb")  # well over the edge, not just at it
    moved: set[str] = set()
    async with bench.gateway_unready() as gateway:

        async def all_there() -> bool:
            """The services keep up: what was read is trimmed."""
            entries: Any = await bench.admin.xrange(bench.partition().tasks)
            moved.update(json.loads(fields[b"data"])["data"]["task"]["request_id"] for _, fields in entries)
            if entries:
                await bench.admin.xdel(bench.partition().tasks, *(entry_id for entry_id, _ in entries))
            return len(moved) == len(put) and not await bench.admin.xlen(INBOX)

        await eventually(all_there, "every entry is moved")
        await gateway.ready()
    assert moved == set(put)
    assert await bench.admin.xlen(DEAD_LETTERS) == 0


async def test_without_memory_the_inbox_moves_no_more_than_the_services_keep_up_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.inbox.MAX_BACKLOG_WITHOUT_MEMORY", 3)
    await fill(bench, 0.88)
    async with bench.gateway_unready() as gateway:

        async def is_short() -> bool:
            return bool((await gateway.client.get("/readyz")).json()["checks"]["memory"])

        await eventually(is_short, "it knows that memory is short")
        await bench.put(*(bench.task() for _ in range(8)))
        await bench.tasks(3)

        async def five_stay() -> bool:
            return bool(await bench.admin.xlen(INBOX) == 5)

        await eventually(five_stay, "the others stay in the inbox")
        await bench.admin.delete(*await bench.admin.keys("ballast:*"))
        await bench.tasks(8)


@pytest.mark.parametrize(
    ("memory", "full"),
    [
        ({"maxmemory": 100, "used_memory": 85, "total_system_memory": 1000}, False),
        ({"maxmemory": 100, "used_memory": 86, "total_system_memory": 1000}, True),
        ({"maxmemory": 0, "used_memory": 860, "total_system_memory": 1000}, True),
        ({"maxmemory": 0, "used_memory": 86, "total_system_memory": 1000}, False),
        ({"maxmemory": 0, "used_memory": 86}, False),
    ],
)
def test_the_bound_is_the_servers_or_the_machines(memory: dict[str, int], full: bool) -> None:
    assert is_full(memory) is full
