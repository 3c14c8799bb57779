"""Growing the log, step by step. What dies on the way leaves the log as it was, or as it is to be: doors that are
closed open by themselves, leases end, and copies that nobody uses are removed when it is run again.

    wipe -> copy ahead -> close -> drain -> seize -> copy the rest -> seal -> switch -> open -> give back -> clear
                                                                              ^ from here on it has grown
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from redis.exceptions import RedisError

from shared.events.partitions import PartitionsSet
from shared.partitions import CONTROL, PARTITIONS, Partition
from shared.streams.client import LogClient
from shared.streams.lease import Lease
from shared.streams.partition_count import Count, recorded
from shared.streams.script import script
from skeldir.growing.changed import Changed
from skeldir.growing.conditions import CannotGrow, count_to_grow, nobody_is_older, there_is_memory
from skeldir.growing.copies import Copied, Copies, clear
from skeldir.growing.drained import left_in
from skeldir.growing.keeping import kept
from skeldir.growing.places import problem_of

GROWTH_LEASE = f"{{{CONTROL}}}:lease:growth"
PACKAGE = "skeldir.growing"
# Doors and leases are kept for so long at a time: whoever dies has no longer closed them.
HOLD_MS = 6000
# From the first seal to the switch there is so much time; seals outlast it, whichever server's clock counts.
SWITCH_MS = 5000
SEAL_MS = 20_000
LOOK_S = 0.05
# Copying ahead ends when so few things changed during a round, or after so many rounds: they change faster than that.
FEW, ROUNDS = 500, 10
TAKEN_UP_S = 15.0

Say = Callable[[str], None]

log = structlog.get_logger(__name__)


class NotDrained(Exception):
    """In the time that was given not all was worked off. The log is as it was, and takes tasks again."""


@dataclass(slots=True)
class Grown:
    """What was done. `closed_s`: for how long no new task was taken. `waiting`: what no service has taken up yet."""

    number: int
    before: int
    closed_s: float = 0.0
    copied: Copied = field(default_factory=Copied)
    forwarded: int = 0
    removed: int = 0
    waiting: list[str] = field(default_factory=list)


async def grow(redis: LogClient, number: int, actor: str, timeout_s: float, say: Say) -> Grown:
    """To `number` partitions. Redis as `admin`. `say` is told of each step that is done.

    Where the log has so many already, only what an earlier run left behind is removed.
    Raises CannotGrow, NotDrained, RedisError: then it may be run again.
    """
    owner = f"growth-{os.getpid()}-{secrets.token_hex(4)}"
    lease = Lease(redis, GROWTH_LEASE, owner, HOLD_MS)
    if not await lease.take():
        raise CannotGrow("another `skeldir partitions grow` is under way, or has just died: look again in 6 s")
    async with kept(lease.renew):
        try:
            count = await count_to_grow(redis)
            if problem := problem_of(number, count.number):
                raise CannotGrow(problem)
            if number == count.number:
                before = count.before[0] if count.before else number
                return Grown(number, before, removed=await clear(redis, number))
            await nobody_is_older(redis)
            growth = _Growth(redis, count, number, owner, say)
            return await growth.run(actor, timeout_s)
        finally:
            with suppress(RedisError):
                await lease.give_back()


async def abandon(redis: LogClient) -> int:
    """After a run that died before the switch: open the doors, and remove its copies. The number of partitions.

    Raises CannotGrow, RedisError.
    """
    lease = Lease(redis, GROWTH_LEASE, f"growth-{os.getpid()}-{secrets.token_hex(4)}", HOLD_MS)
    if not await lease.take():
        raise CannotGrow("another `skeldir partitions grow` is under way, or has just died: look again in 6 s")
    async with kept(lease.renew):
        try:
            count = await count_to_grow(redis)
            for number in range(count.number):
                await redis.set(Partition(number).fence, count.number)
            await Copies(redis, count.number, count.number).wipe()
        finally:
            with suppress(RedisError):
                await lease.give_back()
    return count.number


async def is_under_way(redis: LogClient) -> bool:
    """Whether somebody grows the log now. Raises RedisError."""
    seconds, micro = await redis.time()
    ends: bytes | None = await redis.hget(GROWTH_LEASE, "expires_ms")
    return ends is not None and int(ends) > seconds * 1000 + micro // 1000


class _Growth:
    def __init__(self, redis: LogClient, count: Count, number: int, owner: str, say: Say) -> None:
        self._redis = redis
        self._count = count
        self._number = number
        self._owner = owner
        self._say = say
        self._old = [Partition(one) for one in range(count.number)]
        self._all = [Partition(one) for one in range(number)]
        self._copies = Copies(redis, count.number, number)
        self._changed = Changed(redis, self._old)
        self._leases = {one.number: Lease(redis, one.lease("policy"), owner, HOLD_MS) for one in self._old}
        self._tokens: dict[int, int] = {}
        self._seize = script(redis, PACKAGE, "seize")
        self._seal = script(redis, PACKAGE, "seal")
        self._switch = script(redis, PACKAGE, "switch")

    async def run(self, actor: str, timeout_s: float) -> Grown:
        await there_is_memory(self._redis)
        await clear(self._redis, self._count.number)
        await self._copies.wipe()
        self._say("wiped")
        loop, grown = asyncio.get_running_loop(), Grown(self._number, self._count.number)
        grown.copied = await self._copy_ahead()
        closed_at = loop.time()
        try:
            async with kept(self._close):
                await self._close()
                self._say("closed")
                await self._drain(loop.time() + timeout_s)
                async with kept(self._hold):
                    await self._copy_the_rest(grown.copied)
                    self._say("copied")
            # Nothing is renewed any more that a seal lasts longer than.
            await self._seal_and_switch(actor)
        except (Exception, asyncio.CancelledError):
            await self._reopen()
            raise
        self._say("switched")
        grown.forwarded = await self._copies.forward()
        for partition in self._all:
            await self._redis.set(partition.fence, self._number)
        grown.closed_s = loop.time() - closed_at
        self._say("opened")
        await self._give_back()
        self._say("given back")
        grown.removed = await clear(self._redis, self._number)
        self._say("cleared")
        grown.waiting = await self._taken_up()
        return grown

    async def _copy_ahead(self) -> Copied:
        """Most of it, while the system goes on. Then what has changed meanwhile, until that is little."""
        await self._changed.begin()
        copied = await self._copies.copy(self._changed.read)
        for _ in range(ROUNDS):
            await self._changed.read()
            touched = self._changed.taken()
            copied.again += await self._copies.copy_again(touched)
            if len(touched) < FEW:
                break
        self._say("copied ahead")
        return copied

    async def _copy_the_rest(self, copied: Copied) -> None:
        """Nobody changes anything any more."""
        await self._changed.read()
        copied.again += await self._copies.copy_again(self._changed.taken())
        if not await self._changed.is_whole():  # the streams were trimmed before they were read
            log.warning("what has changed is not known: all is copied once more")
            await self._copies.copy(_nothing)
        copied.reservations = await self._copies.finish()

    async def _close(self) -> None:
        """From now on gateways take nothing new; only for as long as this is said again."""
        for partition in self._old:
            await self._redis.set(partition.fence, "closed", px=HOLD_MS)

    async def _drain(self, deadline: float) -> None:
        """Until all is worked off, with policy's leases in our hands: nobody changes anything from there on."""
        loop = asyncio.get_running_loop()
        while True:
            if left := await self._left():
                if loop.time() > deadline:
                    raise NotDrained(left)
                await asyncio.sleep(LOOK_S)
                continue
            self._say("drained")
            for partition in self._old:
                self._tokens[partition.number] = await self._seize(
                    keys=[partition.lease("policy")], args=[self._owner, HOLD_MS]
                )
            if await self._left() is None:
                self._say("seized")
                return
            await self._give_back()  # something came in between: policy is to see to it

    async def _left(self) -> str | None:
        for partition in self._old:
            if (left := await left_in(self._redis, partition)) is not None:
                return f"partition {partition.number}: {left}"
        return None

    async def _hold(self) -> None:
        """Keep policy's leases."""
        for number, lease in self._leases.items():
            if await lease.renew() != self._tokens[number]:
                raise CannotGrow(f"policy took partition {number} back: the log server was away too long; run it again")

    async def _seal_and_switch(self, actor: str) -> None:
        seconds, micro = await self._redis.time()
        latest = int(seconds) * 1000 + int(micro) // 1000 + SWITCH_MS
        for one in self._old:
            keys = [one.fence, one.lease("policy"), one.policy, one.tasks, one.outcomes]
            said = (await self._seal(keys=keys, args=[self._tokens[one.number], self._owner, SEAL_MS])).decode()
            if said != "sealed":
                raise CannotGrow(f"partition {one.number} has changed meanwhile ({said}): run it again")
        self._say("sealed")
        order = PartitionsSet(actor=actor, number=self._number, previous=self._count.number)
        after = Count(self._number, (self._count.number, *self._count.before))
        words = [self._count.encode(), after.encode(), order.model_dump_json(), latest]
        said = (await self._switch(keys=[PARTITIONS, CONTROL], args=words)).decode()
        if said in ("late", "other"):
            raise CannotGrow("the log server was away too long, or somebody else has changed the number: run it again")

    async def _reopen(self) -> None:
        """As it was; unless the switch was made, and only its reply got lost. Else it opens by itself."""
        with suppress(RedisError):
            found = await recorded(self._redis)
            if found is None or found.number != self._count.number:
                return
            for partition in self._old:
                await self._redis.set(partition.fence, self._count.number)
            await self._give_back()
            await self._copies.wipe()

    async def _give_back(self) -> None:
        await asyncio.gather(*(lease.give_back() for lease in self._leases.values()))

    async def _taken_up(self) -> list[str]:
        """What no service works on yet, after some time: new partitions, and those whose leases were given back."""
        deadline = asyncio.get_running_loop().time() + TAKEN_UP_S
        while True:
            waiting = [
                f"partition {one.number}: no {who}"
                for one in self._all
                for who in ("policy", "ledger")
                if not await self._is_led(one, who)
            ]
            if not waiting or asyncio.get_running_loop().time() > deadline:
                return waiting
            await asyncio.sleep(LOOK_S)

    async def _is_led(self, partition: Partition, role: str) -> bool:
        owner: bytes | None = await self._redis.hget(partition.lease(role), "owner")
        if owner is None:
            return partition.number < self._count.number  # nobody did before
        return owner != self._owner.encode()


async def _nothing() -> None:
    """There is nothing to do meanwhile."""
