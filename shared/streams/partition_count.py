"""How many partitions the log has. The log says so itself: which partition a tenant is in follows from it, and with two
numbers a tenant would have two accounts.

The record is made once, by the first service on a new log. A log of a release that knew of no record has the number by
its keys: every executor makes a consumer group in each partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog

from shared.partitions import PARTITIONS, Partition
from shared.settings import Settings
from shared.streams.client import LogClient
from shared.streams.script import script

MOST = 1024
PAGE = 256

log = structlog.get_logger(__name__)


class WrongCount(ValueError):
    """Another number of partitions is set than the log has; the text says both, and what to do."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many partitions there are, and were `before`: the newest number first."""

    number: int
    before: tuple[int, ...] = ()

    def encode(self) -> str:
        """As it is stored."""
        return " ".join(map(str, (self.number, *self.before)))


async def recorded(redis: LogClient) -> Count | None:
    """What the log says; None where nothing is recorded. Raises RedisError."""
    stored: bytes | None = await redis.get(PARTITIONS)
    if stored is None:
        return None
    number, *before = map(int, stored.split())
    return Count(number, tuple(before))


async def count_of(redis: LogClient) -> Count | None:
    """What the log says, or its keys do; None: it is a new one. Raises RedisError."""
    return await recorded(redis) or await _by_keys(redis)


async def look(redis: LogClient, settings: Settings) -> int:
    """How many partitions the log has, or a new one will have. Raises WrongCount, RedisError."""
    return agreed(await count_of(redis), settings)


async def settle(redis: LogClient, settings: Settings) -> int:
    """The same for a service that starts; on a log without a record it is made. Raises WrongCount, RedisError."""
    found = await recorded(redis)
    if found is None:
        by_keys = await _by_keys(redis)
        # Where another service recorded it meanwhile, that holds: the keys that were seen may not be all yet.
        if await redis.get(PARTITIONS) is None:
            await _once(redis, PARTITIONS, Count(agreed(by_keys, settings)).encode())
        found = await recorded(redis)
    return agreed(found, settings)


async def open_fence(redis: LogClient, partition: Partition, number: int) -> bool:
    """Let gateways that know of `number` append to a partition that nobody opened yet; False: the log has another
    number. Raises RedisError."""
    found = await recorded(redis)
    if found is None:  # the log was emptied since this process started
        await _once(redis, PARTITIONS, Count(number).encode())
        found = await recorded(redis)
    if found is None or found.number != number:
        return False
    await _once(redis, partition.fence, str(number))
    return True


def agreed(found: Count | None, settings: Settings) -> int:
    """The number that holds. Raises WrongCount."""
    if found is None:
        return settings.partitions
    given = settings.partitions
    if "partitions" not in settings.model_fields_set or given == found.number:
        return found.number
    if given in found.before:
        log.warning("SKELDIR_PARTITIONS is out of date: the log has grown", given=given, partitions=found.number)
        return found.number
    raise WrongCount(
        f"SKELDIR_PARTITIONS is {given}, but the log has {found.number} partitions: unset it (the log says how many), "
        f"or set it to {found.number}"
    )


async def _once(redis: LogClient, key: str, value: str) -> None:
    await script(redis, "shared.streams", "once")(keys=[key], args=[value])


async def _by_keys(redis: LogClient) -> Count | None:
    """The number by the partitions that have a stream of decisions; None: there is none."""
    found = 0
    for first in range(0, MOST, PAGE):
        asked = [("EXISTS", Partition(number).decisions) for number in range(first, first + PAGE)]
        replies: list[Any] = await redis.together(asked)
        for number, reply in enumerate(replies, start=first):
            if isinstance(reply, Exception):
                raise reply
            if reply:
                found = number + 1
    return Count(found) if found else None
