"""Commands that are carried out in one step, all or none, on whichever server has their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from shared.streams.script import script

Word = bytes | str | int
Command = Sequence[Word]


class Steps:
    """Of one log. By a script, and not by MULTI: that a cluster's client could not send to where the keys are."""

    def __init__(self, redis: Redis) -> None:
        self._run = script(redis, "skeldir.restoring", "step")

    async def run(self, keys: Iterable[str], commands: Iterable[Command]) -> None:
        """On keys of one slot. Raises RedisError; after a lost connection they may or may not have run."""
        arguments: list[Word] = []
        for command in commands:
            arguments += (len(command), *command)
        await self._run(keys=list(keys), args=arguments)


def words_of(fields: Mapping[Any, bytes | str]) -> list[Word]:
    """An entry's or a hash's fields and values, as a command takes them."""
    return [word for field in fields.items() for word in field]
