"""Growing a log whose services are away: what goes where, what a command that dies leaves, when it does not begin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import redis as blocking

from services.executor.journal import GROUP
from services.policy.state import Account, Hold
from services.policy.store import decode_account, encode_account, encode_hold
from shared.events.envelope import new
from shared.events.outcomes import AttemptResolved, Usage
from shared.events.registry import EVENTS
from shared.events.tasks import TaskRef, TaskType
from shared.partitions import CONTROL, PARTITIONS, Partition, partition_for, partition_of
from shared.streams.client import LogClient
from shared.streams.connection import connect
from shared.streams.lease import Fenced, Lease
from skeldir.embedded import EmbeddedValkey
from skeldir.growing import growth
from skeldir.growing.conditions import CannotGrow
from skeldir.growing.growth import NotDrained, abandon, grow, is_under_way
from tests.valkeys import ValkeyCluster

OLD, NEW = 2, 4
TTL_MS = 3_600_000
STEPS = (
    "wiped", "copied ahead", "closed", "drained", "seized", "copied", "sealed", "switched", "opened", "given back",
    "cleared",
)  # fmt: skip
# The ledger has taken in all decisions.
BOOKED = "redis.call('HSET', KEYS[2], 'decisions', redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1])"
BEFORE_SWITCH = STEPS[: STEPS.index("switched")]


class Killed(BaseException):
    """As kill -9 is to a process: nothing of it is tidied up."""


class Log:
    """A log of two partitions in which everything has been worked off, and which tenant has what."""

    def __init__(self, redis: LogClient) -> None:
        self.redis = redis
        self.tenants = {
            number: next(one for one in iter(uuid4, None) if partition_of(one, NEW) == number) for number in range(NEW)
        }
        self.task = {tenant: uuid4() for tenant in self.tenants.values()}
        self.user = uuid4()

    async def fill(self) -> None:
        await self.redis.set(PARTITIONS, str(OLD))
        for one in map(Partition, range(OLD)):
            await self.redis.set(one.fence, OLD)
            last = {}
            for stream in (one.tasks, one.decisions, one.outcomes):
                last[stream] = await self.redis.xadd(stream, {"type": "t", "data": "{}"})
            await self.redis.xgroup_create(one.decisions, GROUP, id="$")
            tasks, decisions, outcomes = last.values()
            await self.redis.hset(one.policy, mapping={"tasks": tasks, "outcomes": outcomes, "control": "7-0"})
            ends = {"tasks": tasks, "decisions": decisions, "outcomes": outcomes}
            await self.redis.hset(one.ledger, mapping=ends)
        for spent, tenant in enumerate(self.tenants.values()):
            home = partition_for(tenant, OLD)
            for user in (self.user, None):
                await self.redis.set(home.account(tenant, user), encode_account(Account(version=spent)))
            record = {"tenant": str(tenant), "state": "ended", "result": b"\x00\xff"}
            await self.redis.hset(home.task(self.task[tenant]), mapping=record)
            await self.redis.pexpire(home.task(self.task[tenant]), TTL_MS)
            hold = Hold(self.task[tenant], tenant, self.user, 5, "2026-01-01T00", "2026-01", state="held")
            await self.redis.hset(home.reservations, str(self.task[tenant]), encode_hold(hold))
            await self.redis.zadd(home.cached(tenant), {home.cache(str(tenant)): 1})
            await self.redis.hset(home.cache(str(tenant)), "answer", "cached")
            await self.redis.hset(home.cached_sizes(tenant), "total", 1)

    async def check(self, number: int) -> None:
        """All of each tenant is in its partition of so many, and nowhere else."""
        for spent, tenant in enumerate(self.tenants.values()):
            home = partition_for(tenant, number)
            stored = await self.redis.get(home.account(tenant, self.user))
            assert stored is not None and decode_account(stored).version == spent
            assert await self.redis.hget(home.task(self.task[tenant]), "result") == b"\x00\xff"
            assert 0 < await self.redis.pttl(home.task(self.task[tenant])) <= TTL_MS
            assert await self.redis.hexists(home.reservations, str(self.task[tenant]))
        for one in map(Partition, range(NEW)):
            of_it = [tenant for tenant in self.tenants.values() if partition_for(tenant, number) == one]
            there = {str(name, "ascii") for name in await self.names(f"{one.tag}:account:*")}
            assert there == {one.account(tenant, user) for tenant in of_it for user in (self.user, None)}
            assert await self.redis.hlen(one.reservations) == len(of_it)
            assert len(await self.names(f"{one.tag}:task:*")) == len(of_it)

    async def names(self, pattern: str) -> set[bytes]:
        return {name async for page in self.redis.names(pattern) for name in page}

    async def fences(self, number: int) -> list[bytes | None]:
        return [await self.redis.get(Partition(one).fence) for one in range(number)]

    async def orders(self) -> list[bytes]:
        entries: Any = await self.redis.xrange(CONTROL)
        return [fields[b"data"] for _, fields in entries]


@pytest.fixture(scope="module")
def server(new_folder: Callable[[], Path]) -> Iterator[EmbeddedValkey]:
    """Of these tests alone: they empty it."""
    running = EmbeddedValkey(new_folder())
    running.start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def nobody_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service takes the new partitions up, and none is waited for."""
    monkeypatch.setattr(growth, "TAKEN_UP_S", 0)


@pytest.fixture
async def log(server: EmbeddedValkey) -> AsyncIterator[Log]:
    async with connect(server.url("admin"), client_name="test") as redis:
        await redis.flushall()
        found = Log(redis)
        await found.fill()
        yield found


def silent(_: str) -> None:
    """Nobody listens."""


def dies_at(step: str) -> Callable[[str], None]:
    def say(done: str) -> None:
        if done == step:
            raise Killed
        return

    return say


async def test_each_tenant_goes_where_it_belongs_with_all_that_is_its_own(log: Log) -> None:
    await log.check(OLD)
    grown = await grow(log.redis, NEW, "ann", 5, silent)
    await log.check(NEW)
    assert (grown.copied.accounts, grown.copied.tasks, grown.copied.reservations) == (4, 2, 2)
    assert await log.redis.get(PARTITIONS) == b"4 2"
    assert await log.fences(NEW) == [b"4"] * NEW
    (order,) = await log.orders()
    assert b'"number":4' in order and b'"previous":2' in order and b'"actor":"ann"' in order
    stayed, went = log.tenants[1], log.tenants[3]
    assert await log.redis.exists(Partition(1).cache(str(stayed)))
    assert not await log.redis.exists(Partition(1).cache(str(went)))
    assert not await log.names(f"*cached:{went}*")
    new, old = Partition(3), Partition(1)
    assert await log.redis.hgetall(new.policy) == {b"tasks": b"0-0", b"outcomes": b"0-0", b"control": b"7-0"}
    last: Any = await log.redis.xinfo_stream(old.outcomes)
    for stream in (new.tasks, new.decisions, new.outcomes):
        begun: Any = await log.redis.xinfo_stream(stream)
        assert begun["last-generated-id"] == last["last-generated-id"], "its entries come behind those of before"
        assert (begun["length"], begun["entries-added"]) == (0, 0)
    unled = [f"partition {number}: no {who}" for number in (2, 3) for who in ("policy", "ledger")]
    assert grown.waiting == ["partition 0: no policy", "partition 1: no policy", *unled]
    again = await grow(log.redis, NEW, "ann", 5, silent)
    assert (again.removed, again.before) == (0, 2) and len(await log.orders()) == 1


@pytest.mark.parametrize("step", STEPS)
async def test_a_command_that_dies_is_run_again(step: str, log: Log) -> None:
    with pytest.raises(Killed):
        await grow(log.redis, NEW, "ann", 5, dies_at(step))
    switched = step not in BEFORE_SWITCH
    assert await log.redis.get(PARTITIONS) == (b"4 2" if switched else b"2")
    for one in range(OLD):
        fence = await log.redis.get(Partition(one).fence)
        # What is closed opens by itself: see `open_fence`.
        assert fence != b"closed" or 0 < await log.redis.pttl(Partition(one).fence) <= growth.SEAL_MS
    if not switched:
        # The system goes on meanwhile: what was copied is out of date.
        tenant = log.tenants[2]
        await log.redis.set(Partition(0).account(tenant, log.user), encode_account(Account(version=2)))
        await log.redis.hset(Partition(2).reservations, "settled since", b"{}")
    await grow(log.redis, NEW, "ann", 5, silent)
    await log.check(NEW)
    assert len(await log.orders()) == 1
    assert set(await log.fences(NEW)) <= {b"4", None, b"closed"}


@pytest.mark.parametrize("step", BEFORE_SWITCH)
async def test_a_command_that_died_is_taken_back(step: str, log: Log) -> None:
    with pytest.raises(Killed):
        await grow(log.redis, NEW, "ann", 5, dies_at(step))
    assert await abandon(log.redis) == OLD
    await log.check(OLD)
    assert await log.fences(NEW) == [b"2", b"2", None, None]
    assert not await log.names("{skeldir:2}:*") and not await log.names("{skeldir:3}:*") and not await log.orders()


async def test_what_is_not_worked_off_keeps_it_from_growing(log: Log) -> None:
    one = Partition(1)
    left = {
        "policy has not taken in all outcomes": ("XADD", one.outcomes, "*", "data", "{}"),
        "1 tasks wait for an outcome": ("HSET", one.parked, "1-0/tasks", "{}"),
        "1 entries are set aside": ("HSET", one.aside, "1-0/tasks", "{}"),
        "the ledger has not taken in all tasks": ("HSET", one.ledger, "tasks", "0-0"),
        "executors have not read all decisions": ("XADD", one.decisions, "*", "data", "{}"),
        "results wait for their reply": ("HSET", one.replies, "outcomes", "0-0"),
    }
    for problem, command in left.items():
        await log.redis.flushall()
        await log.fill()
        await log.redis.execute_command(*command)
        with pytest.raises(NotDrained, match=f"partition 1: {problem}"):
            await grow(log.redis, NEW, "ann", 0, silent)
        assert await log.redis.get(PARTITIONS) == b"2" and await log.fences(OLD) == [b"2"] * OLD
        await log.check(OLD)


async def test_the_writer_of_before_writes_nothing_more(log: Log) -> None:
    policy = Lease(log.redis, Partition(0).lease("policy"), "policy-1", 60_000)
    token = await policy.take()
    await grow(log.redis, NEW, "ann", 5, silent)
    with pytest.raises(Fenced):
        await policy.commit(token, [("SET", Partition(0).account(uuid4(), None), "x")], [])
    assert await policy.take() > token, "it was given back"


async def test_what_changes_while_it_is_copied_is_copied_again(log: Log) -> None:
    """Policy commits a change with an event; where that was trimmed before it was read, all is copied once more."""
    one, tenant = Partition(1), log.tenants[3]
    event = {"subject": str(log.task[tenant]), "tenantid": str(tenant), "userid": str(log.user)}
    account = ("SET", one.account(tenant, log.user), encode_account(Account(version=77)))
    said = ("XADD", one.decisions, "*", "type", "t", "data", orjson.dumps(event))
    record = ("HSET", one.task(log.task[tenant]), "result", "new")
    for trimmed in (False, True):
        await log.redis.flushall()
        await log.fill()
        read = ("XREADGROUP", "GROUP", GROUP, "e", "NOACK", "STREAMS", one.decisions, ">")
        trim = [("XTRIM", one.decisions, "MAXLEN", 0)] * trimmed
        books = ("EVAL", BOOKED, 2, one.decisions, one.ledger)
        grown = await grow(
            log.redis, NEW, "ann", 5, _then("copied ahead", log, account, record, said, read, books, *trim)
        )
        moved = await log.redis.get(Partition(3).account(tenant, log.user))
        assert moved is not None and decode_account(moved).version == 77, f"trimmed: {trimmed}"
        assert await log.redis.hget(Partition(3).task(log.task[tenant]), "result") == b"new"
        assert bool(grown.copied.again) is not trimmed


async def test_an_outcome_that_came_late_goes_after_its_tenant(log: Log) -> None:
    """As what an uncertain call came to, told by an executor that did not know yet that the log has grown."""
    for tenant, moved in ((log.tenants[3], 1), (log.tenants[1], 0)):
        await log.redis.flushall()
        await log.fill()
        task = TaskRef(task_id=uuid4(), request_id="r", task_type=TaskType.ROUTE, provider="stub", model="m")
        told = AttemptResolved(task=task, decision_id=uuid4(), spend="none", usage=Usage(), by="late_result")
        event = new(told, event_id=uuid4(), source="/t", subject="s", now_ms=1, tenantid=tenant, userid=log.user)
        entry = [word for pair in event.to_entry().items() for word in pair]
        say = _then("switched", log, ("XADD", Partition(1).outcomes, "*", *entry))
        grown = await grow(log.redis, NEW, "ann", 5, say)
        found: Any = await log.redis.xrange(Partition(3).outcomes)
        assert grown.forwarded == len(found) == moved
        assert not found or EVENTS.decode(found[0][1][b"data"]) == event


async def test_what_changed_after_the_copy_is_not_lost(log: Log) -> None:
    """Whoever got in between, the switch is not made."""
    one = Partition(1)
    for said, command in {
        "tasks": ("XADD", one.tasks, "*", "data", "{}"),
        "outcomes": ("XADD", one.outcomes, "*", "data", "{}"),
        "lease": ("HINCRBY", one.lease("policy"), "token", 1),
    }.items():
        await log.redis.flushall()
        await log.fill()
        with pytest.raises(CannotGrow, match=rf"has changed meanwhile \({said}\)"):
            await grow(log.redis, NEW, "ann", 5, _then("copied", log, command))
        assert await log.redis.get(PARTITIONS) == b"2" and await log.fences(OLD) == [b"2"] * OLD


async def test_the_switch_is_not_made_late_nor_on_another_number(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    say = _then("sealed", log, ("SET", PARTITIONS, "2 1"))
    with pytest.raises(CannotGrow, match="somebody else has changed the number"):
        await grow(log.redis, NEW, "ann", 5, say)
    monkeypatch.setattr(growth, "SWITCH_MS", -1)  # as if sealing had taken so long
    with pytest.raises(CannotGrow, match="away too long"):
        await grow(log.redis, NEW, "ann", 5, silent)
    assert await log.redis.get(PARTITIONS) == b"2 1" and not await log.orders()
    assert await log.fences(OLD) == [b"2"] * OLD
    await log.check(OLD)


async def test_it_says_what_it_does_not_do(log: Log) -> None:
    for number, problem in ((1, "does not shrink"), (3, "no multiple of 2.*try 4"), (258, "more than 256")):
        with pytest.raises(CannotGrow, match=problem):
            await grow(log.redis, number, "ann", 5, silent)
    lease = Lease(log.redis, growth.GROWTH_LEASE, "other", 60_000)
    assert not await is_under_way(log.redis)
    await lease.take()
    assert await is_under_way(log.redis)
    with pytest.raises(CannotGrow, match="another `skeldir partitions grow`"):
        await grow(log.redis, NEW, "ann", 5, silent)
    await lease.give_back()
    await log.redis.delete(PARTITIONS)
    with pytest.raises(CannotGrow, match="no record of its partitions"):
        await grow(log.redis, NEW, "ann", 5, silent)


async def test_not_beside_a_service_that_would_not_follow(log: Log) -> None:
    older = _blocking(log, client_name="gateway-of-before")
    older.ping()
    with pytest.raises(CannotGrow, match="gateway-of-before is of an older release"):
        await grow(log.redis, NEW, "ann", 5, silent)
    older.close()
    known = log.redis.connection_pool.connection_kwargs
    url = f"redis://{known['username']}:{known['password']}@{known['host']}:{known['port']}"
    async with connect(url, client_name="gateway-of-now") as gateway:
        await gateway.ping()
        await grow(log.redis, NEW, "ann", 5, silent)


async def test_twice_from_where_the_first_left_copies(log: Log) -> None:
    """What is left of a tenant where it was two growths ago is not taken for its state."""
    with pytest.raises(Killed):
        await grow(log.redis, NEW, "ann", 5, dies_at("given back"))
    tenant = log.tenants[2]
    await log.redis.set(Partition(2).account(tenant, None), encode_account(Account(version=99)))
    for one in (Partition(2), Partition(3)):
        await log.redis.xgroup_create(one.decisions, GROUP, id="$")
    await grow(log.redis, 8, "ann", 5, silent)
    home = partition_for(tenant, 8)
    found = await log.redis.get(home.account(tenant, None))
    assert found is not None and decode_account(found).version == 99
    assert await log.redis.get(PARTITIONS) == b"8 4 2"
    assert not [name for name in await log.names(f"*account:{tenant}*") if not name.startswith(home.tag.encode())]


async def test_on_a_cluster(new_folder: Callable[[], Path]) -> None:
    """From one server to another: DUMP here, RESTORE there."""
    cluster = ValkeyCluster(new_folder, replicas=(0, 0, 0))
    cluster.start()
    try:
        async with connect(cluster.url("admin"), client_name="test", min_replicas=0) as redis:
            log = Log(redis)
            await log.fill()
            await grow(redis, NEW, "ann", 5, silent)
            await log.check(NEW)
            assert await redis.get(PARTITIONS) == b"4 2" and len(await log.orders()) == 1
    finally:
        cluster.stop()


def _then(step: str, log: Log, *commands: tuple[Any, ...]) -> Callable[[str], None]:
    """Commands when the step is done; by a connection that does not wait."""
    client = _blocking(log)

    def say(done: str) -> None:
        if done == step:
            for one in commands:
                client.execute_command(*one)

    return say


def _blocking(log: Log, **more: Any) -> Any:
    known = log.redis.connection_pool.connection_kwargs
    return blocking.Redis(**{name: known[name] for name in ("host", "port", "username", "password")}, **more)
