"""Writes that count only once so many replicas have them: what a failover to one of those keeps (ADR 25).

Beside the commands, in the same round trip, goes a WAIT. Where too few replicas answer in time the caller is told what
it is told of a lost connection: the command may or may not have run. It then looks, or asks again, as it does anyhow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import TimeoutError as NoReply

from shared.streams.client import LogClient
from shared.streams.direct import DirectPool

WAIT_MS = 1000
# What is appended, and what decides who may: of all else a lost write is made again by whoever misses it.
APPENDS = frozenset(("EVALSHA", "EVAL", "XADD"))


class NotReplicated(NoReply):
    """The server has written it, and too few of its replicas have."""


class ReplicatedClient(LogClient):
    """A client of one server, for whom a write has happened when `min_replicas` have it too."""

    min_replicas = 1

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] not in APPENDS:
            return await super().execute_command(*args, **options)
        (reply,) = await self.together([args])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def together(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        if all(one[0] not in APPENDS for one in commands):
            return await super().together(commands)
        *replies, reached = await super().together([*commands, ("WAIT", self.min_replicas, WAIT_MS)])
        if isinstance(reached, Exception):
            raise reached
        if reached >= self.min_replicas:
            return replies
        problem = (
            f"written, but {reached} of {self.min_replicas} replicas said within {WAIT_MS} ms that they have it "
            "(SKELDIR_MIN_REPLICAS)"
        )
        return [
            NotReplicated(problem) if one[0] in APPENDS and not isinstance(reply, Exception) else reply
            for one, reply in zip(commands, replies, strict=True)
        ]


def replicated(pool: DirectPool, min_replicas: int) -> ReplicatedClient:
    """A client of the server that `pool` connects to."""
    made: ReplicatedClient = ReplicatedClient.from_pool(pool)
    made.min_replicas = min_replicas
    return made
