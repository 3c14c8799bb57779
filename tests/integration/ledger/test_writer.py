"""The writer on a real log and a real database: takes everything once, stops at nothing, comes back from anything."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from redis.exceptions import NoPermissionError

from services.ledger import books, sessions
from services.ledger.reports import Reporter
from services.ledger.sources import ControlSource, PartitionSource
from services.ledger.trim import Trimmer
from services.ledger.writer import Writer
from shared.partitions import CONTROL, DEAD_LETTERS
from shared.settings import Settings
from shared.streams.growing import Partitions
from shared.streams.lease import Lease
from tests.integration.ledger.conftest import FULL, Bench, eventually, snapshot

COUNT = "SELECT count(*) FROM events WHERE tenant_id = $1"


async def all_in(connection: Any, bench: Bench, count: int) -> None:
    """Wait until so many of the tenant's events are in the books."""

    async def look() -> bool:
        return bool(await connection.fetchval(COUNT, bench.tenant) == count)

    await eventually(look, f"{count} events in the books")


async def is_well(writer: Writer) -> None:
    """Wait until it has no problem: the books have a batch before their writer has heard that they do."""

    async def look() -> bool:
        return writer.problem is None

    await eventually(look, "a writer that says nothing")


async def test_everything_in_the_log_is_in_the_books(bench: Bench, as_ledger: Any) -> None:
    history = bench.history(FULL)
    await bench.append(*history.entries)
    await bench.append(*history.entries)  # a producer that repeated itself
    async with bench.writer() as writer:
        await all_in(as_ledger, bench, len(history.records()))
        assert writer.problem is None
        streams = (bench.partition.tasks, bench.partition.decisions, bench.partition.outcomes)
        admin = bench.redis_as("admin")
        ends = {name: (await admin.xrevrange(name, count=1))[0][0].decode() for name in streams}

        async def checkpoints() -> bool:
            stored = {row["stream"]: row["entry_id"] for row in await as_ledger.fetch("SELECT * FROM checkpoints")}
            told = await admin.hgetall(bench.partition.ledger)
            return {**stored, **ends} == stored and {
                name: told.get(name.rpartition(":")[2].encode()) for name in ends
            } == {name: end.encode() for name, end in ends.items()}

        await eventually(checkpoints, "the checkpoints")
    stored = await as_ledger.fetchrow("SELECT body FROM events WHERE id = $1", history.entries[0][2].id)
    assert stored["body"].encode() == history.entries[0][2].to_json()


async def test_a_poison_entry_stops_nobody(bench: Bench, as_ledger: Any) -> None:
    """Not JSON, an unknown type, a version of tomorrow, no tenant, and a value that no column can hold."""
    admin, stream = bench.redis_as("admin"), bench.partition.decisions
    history = bench.history([("submit", 0, 2), ("succeed", 0, 1)])
    (allowed,) = [event for event in history.log if event.type == "task.allowed"]
    balance = allowed.data.balances[0].model_copy(update={"version": 2**63 + 1})  # type: ignore[attr-defined]
    too_big = allowed.model_copy(
        update={
            "id": uuid4(),
            "data": allowed.data.model_copy(update={"balances": [balance]}),
            "tenantid": bench.tenant,
        }
    )
    good = allowed.to_json()
    await admin.xadd(stream, {"type": "x", "data": b"\xff\x00{"})
    await admin.xadd(stream, {"type": "x", "data": good.replace(b"task.allowed", b"task.allotted")})
    await admin.xadd(stream, {"type": "x", "data": good.replace(b":task.allowed:1", b":task.allowed:2")})
    await admin.xadd(stream, {"type": "x", "data": good.replace(b'"tenantid"', b'"nobody"')})
    await admin.xadd(stream, too_big.to_entry())
    await admin.xadd(stream, {"nothing": "here"})
    await bench.append(*history.entries)
    async with bench.writer() as writer:
        await all_in(as_ledger, bench, len(history.records()))
        assert writer.problem is None
    skipped = await as_ledger.fetch("SELECT * FROM skipped_entries WHERE stream = $1 ORDER BY entry_id", stream)
    assert len(skipped) == 6
    assert skipped[0]["data"] == b"\xff\x00{"
    assert "unknown event type" in skipped[1]["reason"]
    assert "newer than this release" in skipped[2]["reason"]
    assert "names no tenant" in skipped[3]["reason"]
    assert "cannot store" in skipped[4]["reason"]
    await reported_once(bench, as_ledger, stream)


async def reported_once(bench: Bench, as_ledger: Any, stream: str) -> None:
    """What nobody else has put into the dead letters gets there, once."""
    admin = bench.redis_as("admin")
    first = await as_ledger.fetchrow(
        "SELECT * FROM skipped_entries WHERE stream = $1 ORDER BY entry_id LIMIT 1", stream
    )
    await admin.xadd(
        DEAD_LETTERS, {"origin": stream, "entry_id": first["entry_id"], "reason": "the executor was quicker"}
    )
    async with sessions.pool(bench.database_url, name="reporter", size=2) as pool:
        reporter = Reporter(pool, bench.redis_as("ledger"), wait_s=0)
        await asyncio.gather(reporter.report(), reporter.report())
        await reporter.report()
    letters = [fields for _, fields in await admin.xrange(DEAD_LETTERS) if fields[b"origin"] == stream.encode()]
    assert len({fields[b"entry_id"] for fields in letters}) == len(letters) == 6
    assert not await as_ledger.fetchval(
        "SELECT count(*) FROM skipped_entries WHERE stream = $1 AND NOT dead_lettered", stream
    )


async def test_the_writer_comes_back_from_a_lost_database(bench: Bench, as_ledger: Any, as_superuser: Any) -> None:
    first, second = bench.history([("submit", 0, 2)]), bench.history([("submit", 0, 2), ("succeed", 0, 1)])
    await bench.append(*first.entries)
    async with bench.writer("hurt") as writer:
        await all_in(as_ledger, bench, len(first.records()))
        await as_superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hurt'"
        )
        await bench.append(*second.entries)
        await all_in(as_ledger, bench, len(second.records()))
        await is_well(writer)


async def test_without_a_database_the_writer_is_not_ready(bench: Bench) -> None:
    nowhere = Bench(bench.redis_as, "postgresql://nobody@127.0.0.1:1/none", bench.partition, bench.tenant, bench.users)
    async with nowhere.writer() as writer:

        async def unready() -> bool:
            return "database" in (writer.problem or "")

        await eventually(unready, "readiness that says so")
    lease = await bench.redis_as("admin").hgetall(bench.partition.lease("ledger"))
    assert not lease, "it neither took the lease nor left word that it wants it: who has a database keeps it"


async def test_a_second_writer_takes_over(bench: Bench, as_ledger: Any) -> None:
    history = bench.history(FULL)
    half = len(history.entries) // 2
    await bench.append(*history.entries[:half])
    async with bench.writer("first"):
        await all_in(as_ledger, bench, half)
        async with bench.writer("second") as second:
            assert second.token == 0
            await bench.append(*history.entries[half:])
            await all_in(as_ledger, bench, len(history.entries))
    async with bench.writer("third") as third:

        async def leads() -> bool:
            return third.token > 0

        await eventually(leads, "the lease")


async def test_two_writers_without_a_lease_between_them_write_everything_once(bench: Bench, as_ledger: Any) -> None:
    """The checkpoint's row alone keeps them apart."""
    history = bench.history(FULL)
    async with sessions.pool(bench.database_url, name="rivals", size=4) as pool:
        rivals = []
        for name in ("a", "b"):
            lease = f"{{skeldir:{bench.partition.number}{name}}}:lease:ledger"
            settings = Settings(batch_size=3)
            rivals.append(
                Writer(pool, bench.redis_as("ledger"), PartitionSource(bench.partition), lease, name, settings, None)
            )
        tasks = [asyncio.create_task(rival.run()) for rival in rivals]
        await bench.append(*history.entries)
        await all_in(as_ledger, bench, len(history.entries))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    rows = await snapshot(as_ledger, bench.tenant)
    calls = sum(row["total_calls"] for row in rows["llm_monthly_costs"])
    ended = [row for row in rows["llm_api_calls"] if row["status"] == "success" or row["end_attempted"]]
    assert calls == len(ended)


async def test_a_fault_of_ours_stops_its_own_source_until_it_is_over(
    bench: Bench, as_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process, and with it every other source, goes on; what was read gets into the books once it can."""

    def fails(*_: Any) -> None:
        raise LookupError("a fault")

    history = bench.history(FULL)
    async with sessions.pool(bench.database_url, name="faulty", size=2) as pool:
        key, source = f"{{skeldir:{bench.partition.number}}}:lease:ledger", PartitionSource(bench.partition)
        settings = Settings(lease_ttl_ms=60_000)  # longer than anybody waits here
        writer = Writer(pool, bench.redis_as("ledger"), source, key, "faulty", settings, None)
        task = asyncio.create_task(writer.run())
        with monkeypatch.context() as broken:
            broken.setattr(PartitionSource, "read", fails)
            await bench.append(*history.entries)

            async def told() -> bool:
                return "LookupError: a fault" in (writer.problem or "")

            await eventually(told, "the problem")
            other = Lease(bench.redis_as("ledger"), key, "without that fault", 100)

            async def had_by_another() -> int:
                return await other.take()

            await eventually(had_by_another, "the lease")
        await all_in(as_ledger, bench, len(history.entries))
        await is_well(writer)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_orders_get_into_the_books(bench: Bench, as_ledger: Any) -> None:
    operator = bench.redis_as("operator")
    scope = f'{{"tenant_id": "{bench.tenant}", "user_id": "{bench.users[0]}"}}'
    async with sessions.pool(bench.database_url, name="control", size=2) as pool:
        lease = f"{{skeldir:{bench.partition.number}}}:lease:ledger"
        writer = Writer(pool, bench.redis_as("ledger"), ControlSource(), lease, "control", Settings(), None)
        task = asyncio.create_task(writer.run())
        engaged = f'{{"type": "shutoff.engaged", "scope": {scope}, "reason": "enough", "actor": "ada"}}'
        until = "9999-12-31T23:59:59-12:00"  # no time of UTC that Python or PostgreSQL knows
        far = f'{{"type": "kill_switch.engaged", "scope": {scope}, "reason": "stop", "until": "{until}"}}'
        await operator.xadd(CONTROL, {"data": engaged})
        await operator.xadd(CONTROL, {"data": "rubbish"})
        await operator.xadd(CONTROL, {"data": far})
        await operator.xadd(
            CONTROL, {"data": f'{{"type": "kill_switch.engaged", "scope": {scope}, "reason": "NUL \\u0000"}}'}
        )

        async def engaged_and_stopped() -> Any:
            hours = await as_ledger.fetchval(
                "SELECT reason FROM llm_hourly_shutoff_state WHERE tenant_id = $1 AND is_shutoff", bench.tenant
            )
            stop = await as_ledger.fetchval(
                "SELECT reason FROM kill_switches WHERE tenant_id = $1 AND engaged", bench.tenant
            )
            return (hours, stop) == ("enough", "NUL \ufffd")

        await eventually(engaged_and_stopped, "the shutoff and the switch")
        await operator.xadd(CONTROL, {"data": f'{{"type": "shutoff.released", "scope": {scope}, "reason": "again"}}'})

        async def released() -> bool:
            return not await as_ledger.fetchval(
                "SELECT bool_or(is_shutoff) FROM llm_hourly_shutoff_state WHERE tenant_id = $1", bench.tenant
            )

        await eventually(released, "the release")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class FixedClock:
    """Far in the future, so that nothing is kept for being young."""

    def now_ms(self) -> int:
        return 4_000_000_000_000


async def test_nothing_unread_is_trimmed(bench: Bench) -> None:
    """Behind every reader, and not a step further: policy, executors (pending and delivered), the books."""
    admin, partition = bench.redis_as("admin"), bench.partition
    trimmer = Trimmer(bench.redis_as("ledger"), None, FixedClock(), Partitions(1), Settings())
    books = dict.fromkeys((partition.tasks, partition.decisions, partition.outcomes), "0-0")
    for stream in (partition.tasks, partition.decisions, partition.outcomes):
        for number in range(1, 10):
            await admin.xadd(stream, {"n": str(number)}, id=f"{number}-0")

    async def left() -> list[int]:
        await trimmer.trim(partition, books)
        return [await admin.xlen(stream) for stream in (partition.tasks, partition.decisions, partition.outcomes)]

    assert await left() == [9, 9, 9]
    await admin.hset(partition.policy, mapping={"tasks": "7-0", "outcomes": "9-0"})
    assert await left() == [9, 9, 9]
    books |= {partition.tasks: "9-0", partition.decisions: "9-0", partition.outcomes: "4-0"}
    assert await left() == [3, 9, 6]
    await admin.xgroup_create(partition.decisions, "executor", id="0")
    assert await left() == [3, 9, 6]
    await admin.xreadgroup("executor", "one", {partition.decisions: ">"}, count=6)
    await admin.xack(partition.decisions, "executor", "1-0", "2-0", "4-0")
    assert await left() == [3, 7, 6]
    await admin.xack(partition.decisions, "executor", "3-0", "5-0", "6-0")
    assert await left() == [3, 4, 6]


async def test_what_is_young_stays_for_those_who_wait(bench: Bench, redis_as: Any) -> None:
    admin, partition = redis_as("admin"), bench.partition
    newest = (await admin.xadd(partition.tasks, {"n": "1"})).decode()
    await admin.hset(partition.policy, mapping={"tasks": newest})
    books = dict.fromkeys((partition.tasks, partition.decisions, partition.outcomes), newest)

    class Now:
        def now_ms(self) -> int:
            return int(newest.partition("-")[0]) + 59_000

    for kept_s, stays in ((60, True), (58, False)):
        settings = Settings(trim_keep_seconds=kept_s)
        floors = await Trimmer(redis_as("ledger"), None, Now(), Partitions(1), settings).floors(partition, books)
        assert (floors[partition.tasks] != newest) == stays


async def test_how_far_the_books_go_is_asked_of_the_database(bench: Bench, as_ledger: Any) -> None:
    """Not of the log, which may have been told so before the database was lost, and restored from a copy."""
    history = bench.history([("submit", 0, 2), ("succeed", 0, 1)])
    await bench.append(*history.entries)
    async with bench.writer():
        await all_in(as_ledger, bench, len(history.records()))
        log, outcomes = bench.redis_as("admin"), bench.partition.outcomes

        async def is_told() -> bool:
            told = await log.hget(bench.partition.ledger, "outcomes")
            return told is not None and (await books.positions(as_ledger, [outcomes]))[outcomes] == told.decode()

        await eventually(is_told, "the log is told, behind the commit")
    told = await log.hgetall(bench.partition.ledger)
    await as_ledger.execute("UPDATE checkpoints SET entry_id = '1-1' WHERE stream = $1", bench.partition.tasks)
    async with sessions.pool(bench.database_url, name="trimmer", size=1) as pool:
        trimmer = Trimmer(bench.redis_as("ledger"), pool, FixedClock(), Partitions(1), Settings())
        found = await trimmer.checkpoints(bench.partition)
    assert (found[bench.partition.tasks], found[outcomes]) == ("1-1", told[b"outcomes"].decode())


async def test_the_ledger_has_no_right_to_write_a_partition(bench: Bench) -> None:
    with pytest.raises(NoPermissionError):
        await bench.redis_as("ledger").xadd(bench.partition.decisions, {"type": "x", "data": "{}"})


async def test_a_nul_byte_is_stored(bench: Bench, as_ledger: Any) -> None:
    history = bench.history([("submit", 0, 2), ("succeed", 0, 1), ("submit", 0, 3), ("succeed", 0, 1)])
    await bench.append(*history.entries)
    async with bench.writer():
        await all_in(as_ledger, bench, len(history.records()))
    rows = await snapshot(as_ledger, bench.tenant)
    assert {row["output_text"] for row in rows["llm_api_calls"]} == {"answer 1 \ufffd"}
    assert "\ufffd" in rows["investigations"][0]["result"]
    assert "\ufffd" in rows["budget_optimization_jobs"][0]["recommendations"]
    assert all(row["cost_cents"] > 0 for row in rows["llm_api_calls"])
