"""`reply_to`: results on a stream of the producer's tenant, at least once, and nowhere else."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

from services.gateway.replies import ReplyWriter
from services.ledger.trim import Trimmer
from shared.events.results import result_of
from shared.partitions import INBOX
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.growing import Partitions
from tests.integration.gateway.conftest import Bench, Gateway, block, eventually, failure


async def replies(bench: Bench, stream: str, count: int) -> list[dict[str, str]]:
    """Wait for so many replies, as a producer reads them; there must not be more."""

    async def enough() -> list[Any] | None:
        async with connect(bench.server.url("producer"), client_name="producer") as producer:
            found: Any = await producer.xrange(stream)
        return found if len(found) >= count else None

    found = await eventually(enough, f"{count} replies")
    assert found is not None and len(found) == count
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in found]


async def replied(bench: Bench) -> None:
    """Wait until the gateway is done with all ends and entries: one that died before would reply to some again."""
    partition = bench.partition()
    newest = (await bench.admin.xrevrange(partition.outcomes, count=1))[0][0]

    async def is_behind() -> bool:
        moved = await bench.admin.hget(partition.replies, "outcomes") == newest
        return bool(moved and not await bench.admin.xlen(INBOX))

    await eventually(is_behind, "the position is moved, the inbox empty")


def stream_of(bench: Bench, name: str = "orders") -> str:
    return f"skeldir:replies:{bench.tenant}:{name}"


async def test_each_end_is_replied_with_its_result(bench: Bench, gateway: Gateway, key: str) -> None:
    stream = stream_of(bench)
    await bench.put(*(bench.task(request_id=f"r-{number}", reply_to=stream) for number in range(3)), bench.task())
    reply = await gateway.post("/v1/tasks", {**bench.task(request_id="over-http", reply_to=stream)}, key)
    assert reply.status_code == 202
    by_request = {event.data.task.request_id: event for event in await bench.tasks(5)}  # type: ignore[attr-defined]
    ends = [
        await bench.end(by_request.pop("r-0")),
        await bench.end(submitted := by_request.pop("r-1"), failure(submitted, "provider_timeout")),
        await bench.end(submitted := by_request.pop("r-2"), block(submitted, "breaker_open")),
    ]
    for submitted in by_request.values():
        ends.append(await bench.end(submitted))
    found = {one["request_id"]: one for one in await replies(bench, stream, 4)}
    assert [found[f"r-{number}"]["type"] for number in range(3)] == ["task.succeeded", "task.failed", "task.blocked"]
    assert found["over-http"]["type"] == "task.succeeded"
    for end in ends[:3]:
        result = result_of(end)
        assert json.loads(found[result.request_id]["data"]) == result.shown()
        assert found[result.request_id]["task_id"] == end.subject
    assert 0 < await bench.admin.ttl(stream) <= bench.settings.replies_ttl_seconds


async def test_another_stream_is_refused(bench: Bench, gateway: Gateway, key: str) -> None:
    names: list[Any] = [
        "{skeldir:0}:tasks",
        "skeldir:control",
        "skeldir:replies:00000000-0000-4000-8000-000000000000:orders",
        "skeldir:replies:orders",
        stream_of(bench, ""),
        stream_of(bench, "a b"),
        stream_of(bench, "a\n"),
        7,
    ]
    await bench.put(*(bench.task(reply_to=name) for name in names))
    for letter in await bench.dead_letters(len(names)):
        assert letter[b"reason"].startswith(b"reply_to: "), letter
    for name in names:
        reply = await gateway.post("/v1/tasks", bench.task(reply_to=name), key)
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid_task"), name
    assert not await bench.submitted()


async def test_a_gateway_that_dies_loses_no_reply_and_nothing_is_trimmed_before_it(bench: Bench) -> None:
    stream, partition = stream_of(bench), bench.partition()
    trimmer = Trimmer(bench.admin, None, _Now(), Partitions(4), Settings(), keep_ms=0)
    async with bench.gateway(lease_ttl_ms=400):
        await bench.put(bench.task(request_id="while-it-lives", reply_to=stream), bench.task(reply_to=stream))
        first, second = await bench.tasks(2)
        await bench.end(first)
        await replies(bench, stream, 1)
        await replied(bench)
    await bench.end(second)
    newest = (await bench.admin.xrevrange(partition.outcomes, count=1))[0][0].decode()
    # The others have read everything.
    await bench.admin.hset(partition.policy, mapping={"tasks": newest, "outcomes": newest, "decisions": newest})
    books = dict.fromkeys((partition.tasks, partition.decisions, partition.outcomes), newest)
    assert (await trimmer.floors(partition, books))[partition.outcomes] != newest
    async with bench.gateway(lease_ttl_ms=400):
        assert len({one["task_id"] for one in await replies(bench, stream, 2)}) == 2

        async def seen() -> bool:
            return bool((await trimmer.floors(partition, books))[partition.outcomes] == newest)

        await eventually(seen, "trimming may go on")


async def test_two_gateways_write_one_reply_and_a_position_that_was_not_moved_another(bench: Bench) -> None:
    """The second is the crash between reply and position: told by the task's id."""
    stream, partition = stream_of(bench), bench.partition()
    # Neither takes from the other what it has begun, though it stands still for a while.
    both: dict[str, Any] = {"lease_ttl_ms": 60_000, "executor_claim_idle_ms": 60_000}
    async with bench.gateway(**both), bench.gateway(**both):
        await bench.put(*(bench.task(reply_to=stream) for _ in range(20)))
        for submitted in await bench.tasks(20):
            await bench.end(submitted)
        written = {one["task_id"] for one in await replies(bench, stream, 20)}
        await replied(bench)
    await bench.admin.delete(partition.lease("replies"))  # as if its time were over
    await bench.admin.hset(partition.replies, "outcomes", "0-0")
    async with bench.gateway(lease_ttl_ms=400):
        assert {one["task_id"] for one in await replies(bench, stream, 40)} == written and len(written) == 20


async def test_a_repetition_is_answered_where_it_asks(bench: Bench, gateway: Gateway) -> None:
    task = bench.task(request_id="again", reply_to=stream_of(bench, "first"))
    await bench.put(task)
    (submitted,) = await bench.tasks(1)
    await bench.put({**task, "reply_to": stream_of(bench, "meanwhile")})

    async def named() -> bool:
        record = bench.partition().task(UUID(submitted.subject))
        found: bytes | None = await bench.admin.hget(record, "reply_to")
        return found == stream_of(bench, "meanwhile").encode()

    await eventually(named, "the later stream is known")
    await bench.end(submitted)
    await replies(bench, stream_of(bench, "meanwhile"), 1)
    await bench.put({**task, "reply_to": stream_of(bench, "after")})
    (reply,) = await replies(bench, stream_of(bench, "after"), 1)
    assert reply["task_id"] == submitted.subject
    assert not await bench.admin.exists(stream_of(bench, "first"))


async def test_a_reply_stream_is_bounded_and_what_the_server_refuses_is_a_dead_letter(
    bench: Bench, gateway: Gateway
) -> None:
    await bench.put(bench.task())
    (submitted,) = await bench.tasks(1)
    result = result_of(await bench.end(submitted))
    writer = ReplyWriter(gateway.redis, Settings(replies_max_length=10))
    await asyncio.gather(*(writer.write(stream_of(bench), result) for _ in range(300)))
    assert 10 <= await bench.admin.xlen(stream_of(bench)) <= 200  # the server drops whole nodes, of a hundred
    await bench.admin.set(stream_of(bench, "taken"), "by something else")
    await writer.write(stream_of(bench, "taken"), result)
    (letter,) = await bench.dead_letters(1)
    assert letter[b"origin"].decode() == stream_of(bench, "taken") and b"WRONGTYPE" in letter[b"reason"]


class _Now:
    def now_ms(self) -> int:
        return 2**42
