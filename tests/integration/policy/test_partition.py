"""One writer a partition, on a real server: atomic commits, fencing, takeover."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from redis.asyncio import Redis

from services.policy import ahead
from services.policy.ahead import FEW
from services.policy.partition import PartitionWriter
from shared.clock import ServerClock
from shared.events.decisions import TaskAllowed
from shared.events.envelope import Envelope, follow
from shared.events.outcomes import TaskFailed, TaskSucceeded, Usage
from shared.money import from_cents
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from shared.streams.lease import Fenced, Lease
from shared.streams.spread import Spread
from tests.integration.policy.conftest import DEADLINE_S, Bench
from tests.unit.policy.world import ref


async def test_a_task_becomes_a_decision_and_a_record(bench: Bench) -> None:
    event = bench.submitted()
    async with bench.writer("one"):
        await bench.submit(event)
        (allowed,) = await bench.decisions(1)
    record = await bench.executor.hgetall(bench.partition.task(event.data.task.task_id))  # type: ignore[attr-defined]
    assert (record[b"state"], record[b"decision"]) == (b"allowed", str(allowed.id).encode())
    assert allowed.causationid == event.id


async def is_unknown(writer: PartitionWriter) -> None:
    """Wait until it says that nobody has vouched for a log without state."""
    async with asyncio.timeout(DEADLINE_S):
        while "vouched" not in (writer.problem or ""):
            await asyncio.sleep(0.01)


async def test_without_state_nothing_is_decided_until_a_ledger_has_vouched_for_that(
    bench: Bench, redis_as: Callable[[str], Redis]
) -> None:
    """A log that was lost looks like a new one: no switch, and nothing spent."""
    await bench.submit(bench.submitted())
    async with bench.writer("one", vouched=False) as writer:
        await is_unknown(writer)
        assert not writer.token and not await bench.executor.xlen(bench.partition.decisions)
        await bench.vouch()
        await bench.decisions(1)
    await redis_as("admin").delete(bench.partition.ledger)  # with state of its own it needs nobody's word
    await bench.submit(bench.submitted())
    async with bench.writer("two", vouched=False):
        await bench.decisions(2)


@pytest.mark.parametrize("sooner", ["a task", "a renewal"])
async def test_a_log_that_is_lost_under_a_leader_is_not_gone_on_with(
    bench: Bench, redis_as: Callable[[str], Redis], sooner: str
) -> None:
    """What it remembers is not written onto an empty log, whichever comes first there."""
    async with bench.writer("one") as writer:
        await bench.submit(bench.submitted())
        await bench.decisions(1)
        admin = redis_as("admin")
        await admin.delete(*[key async for key in admin.scan_iter(f"{bench.partition.tag}:*")])
        if sooner == "a renewal":
            await is_unknown(writer)
        await bench.submit(bench.submitted())
        await is_unknown(writer)
        assert not await bench.executor.xlen(bench.partition.decisions)


async def test_a_blocked_task_has_its_result_at_once(bench: Bench) -> None:
    event = bench.submitted(kill_switch=True)
    async with bench.writer("one"):
        await bench.submit(event)
        await bench.decisions(1)
    record = await bench.executor.hgetall(bench.partition.task(event.data.task.task_id))  # type: ignore[attr-defined]
    result = orjson.loads(record[b"result"])
    assert (result["status"], result["blocked_reason"]) == ("blocked", "provider_kill_switch")
    assert await bench.executor.pttl(bench.partition.task(event.data.task.task_id)) > 0  # type: ignore[attr-defined]


async def test_an_undecodable_entry_is_set_aside_and_the_rest_flows(
    bench: Bench, redis_as: Callable[[str], Redis]
) -> None:
    await bench.gateway.xadd(bench.partition.tasks, {"type": "task.submitted", "data": b"\xff not json"})
    await bench.submit(bench.submitted())
    async with bench.writer("one"):
        await bench.decisions(1)
    letters = await redis_as("operator").xrevrange("skeldir:dead-letters", count=50)
    (letter,) = [fields for _, fields in letters if fields[b"origin"] == bench.partition.tasks.encode()]
    assert letter[b"data"] == b"\xff not json" and b"not JSON" in letter[b"reason"]


async def test_what_changes_nothing_here_is_passed_over_unread(bench: Bench, redis_as: Callable[[str], Redis]) -> None:
    """And is passed for good a moment later, though nothing follows it: the log may be trimmed, and grow."""
    broken, policy = {"type": "attempt.started", "data": b"\xff not json"}, redis_as("policy")
    async with bench.writer("one"):
        await bench.submit(bench.submitted())
        await bench.decisions(1)
        entry_id = await bench.executor.xadd(bench.partition.outcomes, broken)
        async with asyncio.timeout(DEADLINE_S):
            while await policy.hget(bench.partition.policy, "outcomes") != entry_id:
                await asyncio.sleep(0.01)
        await bench.submit(bench.submitted())
        await bench.decisions(2)
    letters = await redis_as("operator").xrevrange("skeldir:dead-letters", count=50)
    assert not [fields for _, fields in letters if fields[b"origin"] == bench.partition.outcomes.encode()]


async def test_no_more_is_decided_than_executors_keep_up_with(bench: Bench) -> None:
    """Else each allow of a long backlog would expire before its call, and be given again, for ever."""
    decisions, allows = bench.partition.decisions, 2 * FEW
    await bench.executor.xgroup_create(decisions, "executor", "0", mkstream=True)
    async with bench.writer("one", decision_ttl_ms=2000, max_in_flight=10 * FEW) as writer:
        await bench.submit(*(bench.submitted(user=uuid4()) for _ in range(FEW)))
        first, *_ = await bench.decisions(FEW, "task.allowed")
        await _until(lambda: _said(writer.ahead.too_far), 1)
        await bench.submit(*(bench.submitted(user=uuid4()) for _ in range(FEW)))
        await bench.executor.xadd(bench.partition.outcomes, _success(first).to_entry())
        await bench.decisions(1, "reservation.ended")  # what was performed is settled all the same
        assert len(await bench.decisions(FEW, "task.allowed")) == FEW
        while len(await bench.decisions(FEW, "task.allowed")) < allows:
            await bench.executor.xreadgroup("executor", "test", {decisions: ">"}, count=10 * FEW, block=100)
        await _until(lambda: _said(not writer.ahead.too_far), 1)


async def test_a_few_decisions_are_made_though_no_executor_has_ever_been_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has made a group: how many decisions wait is not in it, but in the stream."""
    monkeypatch.setattr(ahead, "SHARE", -1)  # whatever waits has waited for too long
    monkeypatch.setattr(ahead, "LOOK_MS", 0)
    async with bench.writer("one", max_in_flight=10 * FEW) as writer:
        for number in range(1, 4):
            await bench.submit(bench.submitted(user=uuid4()))
            await bench.decisions(number)
        await bench.submit(*(bench.submitted(user=uuid4()) for _ in range(FEW)))
        await _until(lambda: _said(writer.ahead.too_far), 1)


async def away_from_the_months_end() -> None:
    """In its last minute, wait for the next one: what was spent in this one does not count there."""
    now = datetime.now(UTC)
    ends = (now.replace(day=28) + timedelta(days=4)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if ends - now < timedelta(minutes=1):
        await asyncio.sleep((ends - now).total_seconds())


async def test_state_survives_the_writer(bench: Bench) -> None:
    await away_from_the_months_end()
    async with bench.writer("one", monthly_cap_cents=2):
        await bench.submit(bench.submitted())
        await bench.decisions(1)
    async with bench.writer("two", monthly_cap_cents=2):
        await bench.submit(bench.submitted(), bench.submitted())
        first, second, third = await bench.decisions(3)
    assert [event.type for event in (first, second, third)] == ["task.allowed", "task.allowed", "task.blocked"]


async def test_what_waits_survives_the_writer(bench: Bench) -> None:
    async with bench.writer("one", breaker_failure_threshold=1):
        await bench.submit(bench.submitted(), bench.submitted())
        (allowed,) = await bench.decisions(1)
        await _until(lambda: bench.policy().hlen(bench.partition.parked), 1)
    async with bench.writer("two", breaker_failure_threshold=1):
        for _ in range(2):  # a repeated append must not settle twice
            await bench.executor.xadd(bench.partition.outcomes, _success(allowed).to_entry())
        await bench.decisions(2, "task.allowed")
        (ended,) = await bench.decisions(1, "reservation.ended")
    assert await bench.policy().hlen(bench.partition.parked) == 0
    assert ended.data.settled == 5  # type: ignore[attr-defined]


async def test_only_one_of_two_writers_decides(bench: Bench) -> None:
    events = [bench.submitted() for _ in range(200)]
    async with bench.writer("one", breaker_failure_threshold=1000), bench.writer("two", breaker_failure_threshold=1000):
        await bench.submit(*events)
        decided = await bench.decisions(200)
    assert sorted(event.causationid for event in decided) == sorted(event.id for event in events)  # type: ignore[type-var]


async def test_a_writer_lets_go_of_its_lease_to_a_process_that_leads_fewer(bench: Bench) -> None:
    """And the tasks of the partition go on, each decided once."""
    of_many, of_none = (Spread(lambda number=number: number, 60.0) for number in (3, 0))  # type: ignore[misc]
    long: dict[str, Any] = {"lease_ttl_ms": 3000}  # none ends because a machine stands still
    async with bench.writer("many", spread=of_many, **long) as first:
        await bench.submit(bench.submitted())
        await bench.decisions(1)
        async with bench.writer("none", spread=of_none, **long) as second:
            for number in range(2, 5):
                await bench.submit(bench.submitted(user=uuid4()))
                await bench.decisions(number)
            async with asyncio.timeout(DEADLINE_S):
                while first.token or not second.token:
                    await asyncio.sleep(0.01)
            assert second.token == 2
            await bench.submit(bench.submitted(user=uuid4()))
            decisions = await bench.decisions(5)
    assert len(decisions) == len({event.subject for event in decisions}) == 5


async def test_who_cannot_read_the_control_stream_does_not_want_what_another_leads(
    bench: Bench, redis_as: Callable[[str], Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would decide nothing there."""
    redis, spread, asked = redis_as("policy"), Spread(lambda: 0, 60.0), 0
    take = Lease.take

    async def counted(lease: Lease, *, wanted: bool = True) -> int:
        nonlocal asked
        found = await take(lease, wanted=wanted)
        asked += 1
        return found

    async with bench.writer("leads") as leader:
        async with asyncio.timeout(DEADLINE_S):
            while not leader.token:
                await asyncio.sleep(0.01)
        monkeypatch.setattr(Lease, "take", counted)
        control = ControlReader(redis, bench.settings.control_staleness_ms)  # which nobody follows
        deaf = PartitionWriter(redis, bench.partition, "deaf", control, ServerClock(), bench.settings, spread=spread)
        running = asyncio.create_task(deaf.run())
        async with asyncio.timeout(DEADLINE_S):
            while not asked:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await Lease(redis, bench.partition.lease("policy"), "looks", 60_000).wanted() == -1


async def failing(*_: Any) -> None:
    """A fault that nobody foresaw."""
    raise LookupError("a fault")


async def tells_of_its_fault(writer: PartitionWriter) -> None:
    """Wait until it does."""
    async with asyncio.timeout(DEADLINE_S):
        while "LookupError: a fault" not in (writer.problem or ""):
            await asyncio.sleep(0.005)


async def test_a_fault_of_ours_stops_its_own_partition_until_it_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process, and with it every other partition, goes on; what was read is decided once it can be."""
    async with bench.writer("one") as writer:
        with monkeypatch.context() as broken:
            broken.setattr(writer, "_commit", failing)
            await bench.submit(bench.submitted())
            await tells_of_its_fault(writer)
        (allowed,) = await bench.decisions(1)
        assert allowed.type == "task.allowed" and writer.problem is None


async def test_a_writer_with_a_fault_lets_one_without_it_lead(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease would last until long after this test's end."""
    async with bench.writer("one", lease_ttl_ms=10 * 60_000) as faulty:
        monkeypatch.setattr(faulty, "_commit", failing)
        await bench.submit(bench.submitted())
        await tells_of_its_fault(faulty)
        async with bench.writer("two"):
            (allowed,) = await bench.decisions(1)
        assert allowed.type == "task.allowed"


async def test_a_paused_writer_is_fenced_off(bench: Bench) -> None:
    """It believes in its token; the server knows better."""
    async with bench.writer("one") as paused:
        await _until(lambda: _token(paused), 1)
        stale = paused.token
        lease = paused._lease
    await asyncio.sleep(bench.settings.lease_ttl_ms / 1000)  # the lease's own time: nothing to poll for
    async with bench.writer("two", lease_ttl_ms=60_000) as successor:
        await bench.submit(bench.submitted())
        await bench.decisions(1)
        assert successor.token > stale
        with pytest.raises(Fenced):
            await lease.commit(stale, [("XADD", bench.partition.decisions, "*", "type", "x", "data", "{}")], [])
    assert len(await bench.executor.xrange(bench.partition.decisions)) == 1


async def test_a_lost_connection_in_a_commit_decides_nothing_twice(
    bench: Bench, redis_as: Callable[[str], Redis]
) -> None:
    admin = redis_as("admin")
    events = [bench.submitted() for _ in range(300)]
    async with bench.writer("one", breaker_failure_threshold=1000, batch_size=5):
        for at in range(0, 300, 10):
            await bench.submit(*events[at : at + 10])
            await admin.client_kill_filter(user="policy")
        decided = await bench.decisions(300)
    assert sorted(event.causationid for event in decided) == sorted(event.id for event in events)  # type: ignore[type-var]


async def _until(read: Callable[[], object], wanted: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await read()) < wanted:  # type: ignore[misc]
            await asyncio.sleep(0.005)


async def _said(value: bool) -> int:
    return int(value)


def _success(allowed: Envelope) -> Envelope:
    assert isinstance(allowed.data, TaskAllowed)
    end = TaskSucceeded(
        task=ref(allowed.data.task),
        decision_id=allowed.id,
        was_cached=False,
        provider_attempted=True,
        output_text="",
        usage=Usage(cost=5),
    )
    return follow(allowed, end, source="/skeldir/executor", now_ms=2)


async def _token(writer: object) -> int:
    return int(bool(writer.token))  # type: ignore[attr-defined]


async def held(bench: Bench) -> Envelope:
    """An allow whose attempt is uncertain: its reservation is held."""
    event = bench.submitted()
    async with bench.writer("one"):
        await bench.submit(event)
        (allowed,) = await bench.decisions(1)
        failed = TaskFailed(
            task=ref(event.data.task),  # type: ignore[attr-defined]
            decision_id=allowed.id,
            reason="attempt_uncertain",
            provider_attempted=True,
            counts_for_breaker=True,
            spend="uncertain",
        )
        end = follow(allowed, failed, source="/skeldir/executor", now_ms=2)
        await bench.executor.xadd(bench.partition.outcomes, end.to_entry())
        await bench.decisions(1, "reservation.ended")
    return allowed


async def reconcile(bench: Bench, allowed: Envelope, operator: Redis) -> None:
    order = {"type": "attempt.reconciled", "tenant_id": str(bench.tenant), "decision_id": str(allowed.id)}
    data = orjson.dumps({**order, "cost_cents": "0.25", "reason": "invoice", "actor": "ann"})
    await operator.xadd("skeldir:control", {"data": data})


async def test_what_is_left_of_a_tenant_that_went_elsewhere_is_not_settled_here(
    bench: Bench, redis_as: Callable[[str], Redis]
) -> None:
    """The log has grown, and its old copy of the reservation is still there."""
    await reconcile(bench, await held(bench), redis_as("operator"))
    async with bench.writer("two", partitions=Partitions(4)):
        await bench.submit(bench.submitted())
        await bench.decisions(2)
    assert len(await bench.decisions(1, "reservation.ended")) == 1
    assert not await bench.decisions(0, "attempt.resolved")


async def test_an_uncertain_attempt_is_reconciled_once_whoever_leads(
    bench: Bench, redis_as: Callable[[str], Redis]
) -> None:
    allowed = await held(bench)
    # Nobody leads when the order comes; the next two writers find it.
    await reconcile(bench, allowed, redis_as("operator"))
    for name in ("two", "three"):
        async with bench.writer(name):
            kept, ended = await bench.decisions(2, "reservation.ended")
            await bench.submit(bench.submitted())
            await bench.decisions(2 if name == "two" else 3, "task.")
    assert [event.data.how for event in (kept, ended)] == ["held", "settled"]  # type: ignore[attr-defined]
    assert ended.data.settled == from_cents("0.25")  # type: ignore[attr-defined]
    assert len(await bench.decisions(2, "reservation.ended")) == 2
    assert len(await bench.decisions(1, "attempt.resolved")) == 1
    assert not await redis_as("policy").hlen(bench.partition.reservations) - 2, "the two new tasks' alone"
