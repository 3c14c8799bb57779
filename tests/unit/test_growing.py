"""A process takes new partitions up while it runs; families of partitions; which key is whose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from services.ledger.families import families
from shared.control_state import ControlState, evolve
from shared.events.control import ControlEvent, InvalidControl, parse_control
from shared.partitions import Partition
from shared.streams.growing import Partitions
from skeldir.growing import keeping
from skeldir.growing.conditions import CannotGrow
from skeldir.growing.places import problem_of, read_key


async def test_work_on_new_partitions_begins_and_all_of_it_ends_together() -> None:
    partitions, at_work = Partitions(2), set[int]()

    async def work(partition: Partition) -> None:
        at_work.add(partition.number)
        try:
            await asyncio.Event().wait()
        finally:
            at_work.discard(partition.number)

    working = asyncio.create_task(partitions.each(work))
    await _until(lambda: at_work == {0, 1})
    await partitions.grow(4)
    await _until(lambda: at_work == {0, 1, 2, 3})
    await partitions.grow(8)
    await _until(lambda: len(at_work) == 8)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert not at_work


async def test_who_fails_at_one_partition_fails() -> None:
    partitions, others = Partitions(2), asyncio.Event()

    async def work(partition: Partition) -> None:
        if partition.number == 3:
            raise ValueError("poison")
        await others.wait()

    working = asyncio.create_task(partitions.each(work))
    await asyncio.sleep(0)
    await partitions.grow(4)
    with pytest.raises(ValueError, match="poison"):
        await asyncio.wait_for(working, 60)


async def test_what_cannot_be_kept_ends_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "KEEP_S", 0)
    replies = iter([None, ConnectionLost("for a moment"), None, CannotGrow("the lease went")])
    kept: list[Exception | None] = []

    async def keep() -> None:
        kept.append(next(replies))
        if kept[-1] is not None:
            raise kept[-1]

    with pytest.raises(CannotGrow, match="the lease went"):
        async with keeping.kept(keep):
            await asyncio.wait_for(asyncio.Event().wait(), 60)
    assert len(kept) == 4 and asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


def test_a_tenants_partitions_are_a_family() -> None:
    assert families([2, 0, 1], []) == [(0,), (1,), (2,)]
    grown = [_set(4, 2), _set(8, 4)]
    assert families(range(8), grown) == [(0, 2, 4, 6), (1, 3, 5, 7)]
    assert families([5, 6], grown[1:]) == [(5,), (6,)]


def test_the_number_only_grows_by_whole_times() -> None:
    state = ControlState()
    assert state.partitions == ()
    for at, order in enumerate((_set(4, 2), _set(12, 4)), start=1):
        state = evolve(state, f"{at}-0", order)
    assert state.partitions == (12, 4, 2)
    for number, previous in ((4, 4), (2, 4), (6, 4)):
        with pytest.raises(InvalidControl):
            _set(number, previous)
    assert problem_of(8, 4) is None and problem_of(4, 4) is None and problem_of(256, 2) is None
    for number, words in ((2, "does not shrink"), (6, "try 8"), (300, "more than 256"), (258, "try 256")):
        assert words in str(problem_of(number, 4)), number


def test_a_key_says_whose_it_is() -> None:
    tenant, other, partition = uuid4(), uuid4(), Partition(12)
    for user in (other, None):
        found = read_key(partition.account(tenant, user).encode())
        assert found is not None and (found.kind, found.tenant_id, found.partition) == ("account", tenant, partition)
    for name in (partition.cached(tenant), partition.cached_sizes(tenant)):
        found = read_key(name.encode())
        assert found is not None and (found.kind, found.tenant_id) == ("cached", tenant)
    record = read_key(partition.task(other).encode())
    assert record is not None and (record.kind, record.tenant_id) == ("task", None)
    assert record.in_partition(Partition(3)) == Partition(3).task(other).encode()
    for name in (partition.policy, partition.tasks, partition.fence, partition.lease("policy"), partition.cache("k")):
        found = read_key(name.encode())
        assert found is not None and (found.kind, found.tenant_id) == ("other", None), name
    assert read_key(b"{skeldir:control}:partitions") is None and read_key(b"skeldir:control") is None


def _set(number: int, previous: int) -> ControlEvent:
    return parse_control(f'{{"type": "partitions.set", "number": {number}, "previous": {previous}}}')


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0)
