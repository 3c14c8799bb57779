"""A tenant's state, copied to the partition where it is going to be. The old one stays until the switch is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from redis.exceptions import ResponseError

from services.policy.store import decode_hold
from shared.control_state import order_of
from shared.events.registry import EVENTS, UndecodableEvent
from shared.partitions import Partition, partition_for
from shared.streams.client import LogClient
from skeldir.growing.changed import Touched
from skeldir.growing.places import Key, read_key

ALL = "{skeldir:*}:*"
PAGE = 500
NOTHING = b"0-0"
MOVED = ("account", "task")
GONE = -2
"""What PTTL says of a key that is not there."""


@dataclass(slots=True)
class Copied:
    """How much went to another partition."""

    accounts: int = 0
    tasks: int = 0
    reservations: int = 0
    again: int = 0
    """Accounts and tasks that changed while they were copied, and were copied once more."""


class Copies:
    """Of a log that grows from `present` partitions to `number`. All raise RedisError."""

    def __init__(self, redis: LogClient, present: int, number: int) -> None:
        self._redis = redis
        self._present = present
        self._number = number

    async def wipe(self) -> None:
        """Remove what an earlier attempt has left in partitions that are not there yet."""
        async for keys in _keys(self._redis):
            await _drop(self._redis, [key.name for key in keys if key.partition.number >= self._present])

    async def copy(self, meanwhile: Callable[[], Awaitable[None]]) -> Copied:
        """Accounts and records of tasks, in one pass over all keys; `meanwhile` is called again and again.

        Cached answers stay behind: they are asked for again.
        """
        done = Copied()
        async for keys in _keys(self._redis):
            wanted = [key for key in keys if key.kind in MOVED and key.partition.number < self._present]
            moving = await self._move(wanted)
            done.accounts += sum(key.kind == "account" for key in moving)
            done.tasks += sum(key.kind == "task" for key in moving)
            await meanwhile()
        return done

    async def copy_again(self, touched: Touched) -> int:
        """What has changed since it was copied; how much that was."""
        names = {partition.task(task) for partition, task in touched.tasks}
        for partition, tenant, user in touched.users:
            names |= {partition.account(tenant, user), partition.account(tenant, None)}
        found = 0
        for some in _pages([name.encode() for name in sorted(names)]):
            found += len(await self._move([key for name in some if (key := read_key(name)) is not None]))
        return found

    async def finish(self) -> int:
        """Reservations, which are few, and new streams and positions; how many reservations."""
        found = 0
        for number in range(self._present):
            found += await self._reservations(Partition(number))
        for number in range(self._present, self._number):
            await self._begin(Partition(number), Partition(number % self._present))
        return found

    async def forward(self) -> int:
        """Outcomes that came too late to be settled before the switch, to where their tenant is now. The books know
        an event by its id, and take it once."""
        found = 0
        for number in range(self._present):
            partition = Partition(number)
            after = (await self._redis.hget(partition.policy, "outcomes") or NOTHING).decode()
            late: Any = await self._redis.xrange(partition.outcomes, min=f"({after}")
            for _, fields in late:
                tenant_id = _tenant_of(fields)
                there = None if tenant_id is None else self._goes_to(tenant_id, partition)
                if there is not None:
                    await self._redis.xadd(there.outcomes, fields)
                    found += 1
        return found

    def _goes_to(self, tenant_id: UUID, partition: Partition) -> Partition | None:
        """Where a tenant goes that is at home in this partition; None: it stays, or what is here is a leftover."""
        if partition_for(tenant_id, self._present) != partition:
            return None
        there = partition_for(tenant_id, self._number)
        return None if there == partition else there

    async def _move(self, keys: Sequence[Key]) -> list[Key]:
        """Copy those of tenants that go elsewhere; which they were."""
        moves = [(key, self._goes_to(tenant, key.partition)) for key, tenant in await _owned(self._redis, keys)]
        moving = [(key, there) for key, there in moves if there is not None]
        dumps = await _all(self._redis, [("DUMP", key.name) for key, _ in moving])
        lives = await _all(self._redis, [("PTTL", key.name) for key, _ in moving])
        await _all(
            self._redis,
            [
                # 0 would be for ever, which is what a life of -1 is.
                ("RESTORE", key.in_partition(there), max(1, ttl) if ttl >= 0 else 0, dump, "REPLACE")
                for (key, there), dump, ttl in zip(moving, dumps, lives, strict=True)
                if dump is not None and ttl != GONE
            ],
        )
        return [key for key, _ in moving]

    async def _reservations(self, partition: Partition) -> int:
        found = 0
        async for page in _holds(self._redis, partition):
            moves = [(name, raw, self._goes_to(tenant, partition)) for name, raw, tenant in page]
            moving = [(there, name, raw) for name, raw, there in moves if there is not None]
            await _all(self._redis, [("HSET", there.reservations, name, raw) for there, name, raw in moving])
            found += len(moving)
        return found

    async def _begin(self, new: Partition, old: Partition) -> None:
        """The new partition's streams, behind all that the old one has had, whatever the clocks say; and how far policy
        is in it: with the orders as far as in the old one."""
        ends = [await _last(self._redis, stream) for stream in (old.tasks, old.decisions, old.outcomes)]
        floor = max((end.decode() for end in ends), key=order_of)
        for stream in (new.tasks, new.decisions, new.outcomes):
            await _begin_behind(self._redis, stream, floor)
        control = await self._redis.hget(old.policy, "control") or NOTHING
        await self._redis.hset(new.policy, mapping={"tasks": NOTHING, "outcomes": NOTHING, "control": control})


async def clear(redis: LogClient, number: int) -> int:
    """Remove what is not at home where it is, in a log of so many partitions, and such tenants' cached answers; how
    much that was. Can be done again. Raises RedisError."""
    removed = 0
    for one in range(number):  # first: who settled one in its old place, too, would settle it twice
        partition = Partition(one)
        async for page in _holds(redis, partition):
            names = [name for name, _, tenant in page if partition_for(tenant, number) != partition]
            await _all(redis, [("HDEL", partition.reservations, name) for name in names])
            removed += len(names)
    async for keys in _keys(redis):
        wanted = [key for key in keys if key.kind in ("account", "task", "cached")]
        owned = await _owned(redis, wanted)
        strays = [key for key, tenant in owned if partition_for(tenant, number) != key.partition]
        for key in strays:
            if key.kind == "cached" and not key.name.endswith(b":sizes"):
                await _drop(redis, await redis.zrange(key.name, 0, -1))
        removed += await _drop(redis, [key.name for key in strays])
    return removed


async def _keys(redis: LogClient) -> AsyncIterator[list[Key]]:
    async for names in redis.names(ALL):
        for some in _pages(names):
            yield [key for name in some if (key := read_key(name)) is not None]


async def _owned(redis: LogClient, keys: Sequence[Key]) -> list[tuple[Key, UUID]]:
    """Each with whose it is. A task's record says that in itself; one that does not is nobody's, and stays."""
    records = [key for key in keys if key.kind == "task"]
    said = await _all(redis, [("HGET", key.name, "tenant") for key in records])
    owner = {key.name: UUID(tenant.decode()) for key, tenant in zip(records, said, strict=True) if tenant}
    found = ((key, owner.get(key.name, key.tenant_id)) for key in keys)
    return [(key, tenant) for key, tenant in found if tenant is not None]


async def _holds(redis: LogClient, partition: Partition) -> AsyncIterator[list[tuple[bytes, bytes, UUID]]]:
    """Pages of reservations, each with its name, its bytes, and whose it is."""
    cursor = 0
    while True:
        cursor, page = await redis.hscan(partition.reservations, cursor, count=PAGE)
        yield [(name, raw, decode_hold(raw).tenant_id) for name, raw in page.items()]
        if not int(cursor):
            return


async def _last(redis: LogClient, stream: str) -> bytes:
    try:
        info: Any = await redis.xinfo_stream(stream)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return NOTHING
    return bytes(info["last-generated-id"])


async def _begin_behind(redis: LogClient, stream: str, entry_id: str) -> None:
    """An empty stream whose next entry will have a higher id than this; it counts as one that has lost nothing."""
    await redis.xgroup_create(stream, "grow", id="0", mkstream=True)
    await redis.xgroup_destroy(stream, "grow")
    await redis.execute_command("XSETID", stream, entry_id, "ENTRIESADDED", 0, "MAXDELETEDID", "0-0")


async def _drop(redis: LogClient, names: Sequence[bytes]) -> int:
    for some in _pages(names):
        await _all(redis, [("UNLINK", name) for name in some])
    return len(names)


async def _all(redis: LogClient, commands: Sequence[Sequence[Any]]) -> list[Any]:
    if not commands:
        return []
    replies: list[Any] = await redis.together(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _tenant_of(fields: dict[bytes, bytes]) -> UUID | None:
    try:
        return EVENTS.decode(fields.get(b"data")).tenantid
    except UndecodableEvent:
        return None


def _pages(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (names[first : first + PAGE] for first in range(0, len(names), PAGE))
