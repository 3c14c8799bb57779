"""What changes while copies are made and the system goes on: whatever there is an event about in a partition.

Policy changes an account, and policy and executors a task's record, only with such an event beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.partitions import Partition
from shared.streams.read import read_after

PAGE = 1000
NOTHING = "0-0"


@dataclass(slots=True)
class _Place:
    """Where reading is in a stream: behind this entry, which was the stream's nth. `read`: how many since it began."""

    at: str = NOTHING
    began: int = 0
    read: int = 0


@dataclass(slots=True)
class Touched:
    """Tasks and users, with their partition."""

    tasks: set[tuple[Partition, UUID]] = field(default_factory=set)
    users: set[tuple[Partition, UUID, UUID]] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.tasks) + len(self.users)


class Changed:
    """Follows the streams of these partitions, from now on. To be read often: they are trimmed."""

    def __init__(self, redis: Redis, partitions: Sequence[Partition]) -> None:
        self._redis = redis
        self._streams = {stream: partition for partition in partitions for stream in _streams(partition)}
        self._places: dict[str, _Place] = {}
        self._touched = Touched()

    async def begin(self) -> None:
        """What is touched from here on is told."""
        for stream in self._streams:
            last, added = await _end(self._redis, stream)
            self._places[stream] = _Place(last, added)

    async def read(self) -> None:
        """Take in what has come since."""
        for stream, place in self._places.items():
            while page := (await read_after(self._redis, {stream: place.at}, PAGE, None)).get(stream):
                for _, fields in page:
                    self._take(self._streams[stream], fields.get(b"data"))
                place.at, place.read = page[-1][0].decode(), place.read + len(page)

    def taken(self) -> Touched:
        """What was touched since this was asked last."""
        found, self._touched = self._touched, Touched()
        return found

    async def is_whole(self) -> bool:
        """Whether nothing was trimmed before it was read. To be asked when nothing comes any more."""
        for stream, place in self._places.items():
            if await _end(self._redis, stream) != (place.at, place.began + place.read):
                return False
        return True

    def _take(self, partition: Partition, data: bytes | None) -> None:
        try:
            event = orjson.loads(data or b"")
            task_id, tenant_id, user_id = (UUID(event[name]) for name in ("subject", "tenantid", "userid"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # policy has set it aside, and touched nobody
        self._touched.users.add((partition, tenant_id, user_id))
        self._touched.tasks.add((partition, task_id))


def _streams(partition: Partition) -> tuple[str, str, str]:
    return partition.tasks, partition.decisions, partition.outcomes


async def _end(redis: Redis, stream: str) -> tuple[str, int]:
    """The id of the last entry that there ever was, and how many there were."""
    try:
        info: Any = await redis.xinfo_stream(stream)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return NOTHING, 0
    return info["last-generated-id"].decode(), int(info["entries-added"])
