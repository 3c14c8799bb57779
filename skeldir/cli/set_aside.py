"""Dead letters of the inner streams: policy keeps such an entry, and takes it in again, or gives it up, by an order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from services.policy.inputs import read
from shared.control_state import order_of
from shared.partitions import DEAD_LETTERS, Partition
from skeldir.cli.context import CommandError

WAIT_S = 10.0
LOOK_S = 0.05
NEWEST = 10_000


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry that policy has set aside, and the keys of all that is kept of the same task."""

    partition: Partition
    key: str
    behind: frozenset[str]


async def kept(redis: Redis, origin: str, entry_id: str) -> Kept:
    """What policy keeps under that entry. Raises CommandError where it keeps nothing."""
    tag, _, stream = origin.rpartition(":")
    number = tag.removeprefix("{skeldir:").removesuffix("}")
    if stream not in ("tasks", "outcomes") or not number.isdecimal():
        raise CommandError(f"entries of {origin} cannot be returned: a service alone writes and works it off")
    partition, wanted = Partition(int(number)), f"{entry_id}/{stream}"
    stored: Any = await redis.hgetall(partition.aside)
    subjects = {}
    for key, data in stored.items():
        at, _, name = key.decode().partition("/")
        subjects[key.decode()] = read("tasks" if name == "tasks" else "outcomes", at, data).subject
    if wanted not in subjects:
        raise CommandError("policy does not keep this entry: its task has an end already; submit it again as a new one")
    return Kept(partition, wanted, frozenset(key for key, subject in subjects.items() if subject == subjects[wanted]))


async def carried_out(redis: Redis, entry: Kept, order: str) -> bool:
    """Wait until policy has taken the order in. False where it does not in time."""
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                position: Any = await redis.hget(entry.partition.policy, "control")
                if position is not None and order_of(position.decode()) >= order_of(order):
                    return True
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        return False


async def remove_letters(redis: Redis, entry: Kept, order: str) -> int:
    """Take away the letters of what was returned, as they were before the order; how many that were."""
    letters: Any = await redis.xrevrange(DEAD_LETTERS, count=NEWEST)
    ours = [
        letter
        for letter, fields in letters
        if order_of(letter.decode()) < order_of(order)
        and fields.get(b"origin", b"").decode().startswith(entry.partition.tag)
        and f"{fields[b'entry_id'].decode()}/{fields[b'origin'].decode().rpartition(':')[2]}" in entry.behind
    ]
    return int(await redis.xdel(DEAD_LETTERS, *ours)) if ours else 0
