"""A log has one number of partitions: nothing starts with another, and no gateway writes by another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from shared.events.envelope import Envelope, new
from shared.events.registry import EVENTS
from shared.events.tasks import TaskType, task_id_of
from shared.partitions import CONTROL, PARTITIONS, Partition, partition_of
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.partition_count import WrongCount, look, settle
from tests.integration.gateway.conftest import Bench, Gateway, eventually, success

SERVICES = ("gateway", "policy", "executor", "ledger")
TASK = {"task_type": "route", "prompt": {"text": "hi"}, "request_id": "once"}
As = Callable[[str], Redis]


@pytest.fixture
async def log_as(bench: Bench) -> AsyncIterator[As]:
    """A connection to the bench's log in a role."""
    opened: list[Redis] = []

    def open_as(role: str) -> Redis:
        opened.append(connect(bench.server.url(role), client_name="test"))
        return opened[-1]

    yield open_as
    await asyncio.gather(*(one.aclose() for one in opened))


@pytest.mark.parametrize("role", SERVICES)
async def test_the_first_service_says_how_many_and_the_others_follow(role: str, bench: Bench, log_as: As) -> None:
    log = log_as(role)
    assert await look(log, Settings(partitions=8)) == 8
    assert await bench.admin.get(PARTITIONS) is None, "looking records nothing"
    assert await settle(log, Settings(partitions=8)) == 8
    assert await bench.admin.get(PARTITIONS) == b"8"
    assert await settle(log, Settings()) == 8, "not set: the log's number holds"
    assert await look(log_as("operator"), Settings()) == 8
    for work in (settle, look):
        with pytest.raises(WrongCount, match="SKELDIR_PARTITIONS is 4, but the log has 8 partitions: unset it"):
            await work(log, Settings(partitions=4))


async def test_a_new_log_gets_the_default(bench: Bench, log_as: As) -> None:
    assert await settle(log_as("policy"), Settings()) == 4
    assert await bench.admin.get(PARTITIONS) == b"4"


async def test_all_at_once_agree(bench: Bench, log_as: As) -> None:
    wanted = [2, 8, 16, 4] * 3
    found = await asyncio.gather(
        *(settle(log_as(SERVICES[n % 4]), Settings(partitions=number)) for n, number in enumerate(wanted)),
        return_exceptions=True,
    )
    number = int(await bench.admin.get(PARTITIONS) or 0)
    for one, asked in zip(found, wanted, strict=True):
        assert one == number if asked == number else isinstance(one, WrongCount)


@pytest.mark.parametrize("role", SERVICES)
async def test_a_log_of_an_older_release_has_as_many_as_its_keys(role: str, bench: Bench, log_as: As) -> None:
    for number in range(6):
        await bench.admin.xadd(Partition(number).decisions, {"n": "1"})
    for other in (4, 8):
        with pytest.raises(WrongCount, match=f"is {other}, but the log has 6"):
            await settle(log_as(role), Settings(partitions=other))
    assert await bench.admin.get(PARTITIONS) is None
    assert await settle(log_as(role), Settings()) == 6
    assert await bench.admin.get(PARTITIONS) == b"6"


async def test_a_number_from_before_the_log_grew_is_out_of_date_and_no_contradiction(bench: Bench, log_as: As) -> None:
    await bench.admin.set(PARTITIONS, "8 4 2")
    assert [await settle(log_as("policy"), Settings(partitions=one)) for one in (8, 4, 2)] == [8, 8, 8]
    with pytest.raises(WrongCount):
        await settle(log_as("policy"), Settings(partitions=3))


@pytest.mark.parametrize("role", [*SERVICES, "operator", "producer"])
async def test_nobody_changes_the_number(role: str, bench: Bench, log_as: As) -> None:
    await bench.admin.set(PARTITIONS, "4")
    await bench.admin.set(Partition(0).fence, "4")
    for command in (("SET", PARTITIONS, "8"), ("DEL", PARTITIONS), ("SET", Partition(0).fence, "8")):
        with pytest.raises(NoPermissionError):
            await log_as(role).execute_command(*command)


async def test_a_gateway_with_another_number_writes_nothing(bench: Bench, gateway: Gateway, key: str) -> None:
    assert (await gateway.post("/v1/tasks", TASK, key)).status_code == 202
    assert await bench.admin.get(bench.partition().fence) == b"4"
    async with bench.gateway(partitions=8) as other:
        refused = await other.post("/v1/tasks", {**TASK, "request_id": "other"}, await bench.key(other))
        assert (refused.status_code, refused.json()["code"]) == (503, "partitions_change")
        assert refused.headers["retry-after"] == "1"
        # In the partition that it would be in there is no fence yet: it makes none.
        elsewhere = await other.post("/v1/tasks", TASK, await bench.key(other, tenant=_of(6)))
        assert elsewhere.status_code == 503
        assert await bench.admin.get(Partition(6).fence) is None
    assert len(await bench.submitted()) == 1


async def test_a_closed_partition_takes_nothing_new_and_knows_what_it_took(
    bench: Bench, gateway: Gateway, key: str
) -> None:
    assert (await gateway.post("/v1/tasks", TASK, key)).status_code == 202
    await bench.admin.set(bench.partition().fence, "closed")
    refused = await gateway.post("/v1/tasks", {**TASK, "request_id": "other"}, key)
    assert (refused.status_code, refused.json()["code"]) == (503, "partitions_change")
    assert (await gateway.post("/v1/tasks", TASK, key)).status_code == 202, "what was accepted is still known"
    await bench.put(bench.task(request_id="waits"))

    async def is_read() -> bool:
        return bool((await bench.admin.xpending("skeldir:inbox", "gateway"))["pending"] == 1)

    await eventually(is_read, "it is read")
    assert len(await bench.submitted()) == 1
    await bench.admin.delete(bench.partition().fence)  # as if its time were over: the log's number holds
    await bench.tasks(2)
    assert (await gateway.post("/v1/tasks", {**TASK, "request_id": "other"}, key)).status_code == 202


def _of(number: int, of: int = 8) -> UUID:
    return next(one for one in iter(uuid4, None) if partition_of(one, of) == number)


async def test_a_gateway_follows_the_log_when_it_grows(bench: Bench) -> None:
    tenant = next(one for one in iter(uuid4, None) if (partition_of(one, 2), partition_of(one, 4)) == (1, 3))
    async with bench.gateway(partitions=2, patience_s=20) as gateway:
        key = await bench.key(gateway, tenant=tenant)
        assert (await gateway.post("/v1/tasks", TASK, key)).status_code == 202
        for number in range(2):
            await bench.admin.set(Partition(number).fence, "closed")
        waiting = asyncio.create_task(gateway.post("/v1/tasks", {**TASK, "request_id": "waits"}, key, Prefer="wait=20"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.2)
        # Elsewhere the growth is known already, and the task has its end there before this gateway follows.
        (first,) = await _tasks(bench, 1)
        waits = str(task_id_of(tenant, TaskType.ROUTE, "waits"))
        await bench.admin.xadd(Partition(3).outcomes, _ended(first.model_copy(update={"subject": waits})).to_entry())
        order = {"type": "partitions.set", "number": 4, "previous": 2, "actor": "test"}
        # Said before it is so: it looks at the record.
        await bench.admin.xadd(CONTROL, {"data": orjson.dumps(order)})
        await bench.admin.set(PARTITIONS, "4 2")
        await bench.admin.xadd(CONTROL, {"data": orjson.dumps(order)})
        for number in range(4):
            await bench.admin.set(Partition(number).fence, "4")
        (event,) = await eventually(lambda: _tasks(bench, 3), "it is accepted where its tenant is now")
        assert event.subject == waits
        reply = await waiting
        assert (reply.status_code, reply.json()["output_text"]) == (200, "an answer")
    assert len(await _tasks(bench, 1)) == 1


async def test_no_order_over_http_grows_the_log(bench: Bench, gateway: Gateway) -> None:
    order = {"type": "partitions.set", "number": 8, "previous": 4}
    refused = await gateway.post("/v1/control", order, await bench.key(gateway, "operator"))
    assert refused.status_code == 422 and "skeldir partitions grow" in refused.json()["detail"]


async def test_patience_ends(bench: Bench) -> None:
    await bench.admin.set(bench.partition().fence, "closed")
    async with bench.gateway(patience_s=0.1) as gateway:
        refused = await gateway.post("/v1/tasks", TASK, await bench.key(gateway))
    assert (refused.status_code, refused.json()["code"]) == (503, "partitions_change")


async def _tasks(bench: Bench, number: int) -> list[Envelope]:
    entries: Any = await bench.admin.xrange(Partition(number).tasks)
    return [EVENTS.decode(fields[b"data"]) for _, fields in entries]


def _ended(event: Envelope) -> Envelope:
    known = {"tenantid": event.tenantid, "userid": event.userid}
    return new(success(event), event_id=uuid4(), source="/test", subject=event.subject, now_ms=1, **known)
