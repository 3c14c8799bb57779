"""One writer a partition: leases with fencing tokens, and the commit that checks the token.

    free --take--> held(token n) --renew--> held(token n)
    held(token n) --expires or given back--> free --take--> held(token n + 1)

A worker that was paused past its lease still believes it holds token n; its next commit is refused by the server,
because the lease then says n + 1 (M. Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from shared.streams.client import LogClient
from shared.streams.script import script
from shared.streams.spread import Spread

RENEWALS = 4
"""In the time that a lease lasts."""

Word = bytes | str | int
Command = Sequence[Word]


class Fenced(Exception):
    """Another worker holds the lease: nothing was written, and what this worker believes is out of date."""


class Lease:
    """The lease `key`, wanted by `owner`. `spread`: it is one of some that several processes share."""

    def __init__(self, redis: LogClient, key: str, owner: str, ttl_ms: int, spread: Spread | None = None) -> None:
        self._redis = redis
        self._spread = spread
        self._key = key
        self._owner = owner
        self._ttl_ms = ttl_ms
        self._lease = script(redis, "shared.streams", "lease")
        self._fenced = script(redis, "shared.streams", "fenced")

    async def take(self, *, wanted: bool = True) -> int:
        """Take it, with a new fencing token; 0 while another owner holds it, who is told how many leases we have, if it
        is `wanted`: by a process that could work better than one that has it already.

        To be called before state is loaded: a commit that is still on its way from before is refused from here on.
        """
        word = [self._spread.held] if self._spread is not None and wanted else []
        return int(await self._lease(keys=[self._key], args=[self._owner, self._ttl_ms, "take", *word]))

    async def wanted(self) -> int:
        """The fewest leases that one has who wants this one; -1: nobody does."""
        return int(await self._lease(keys=[self._key], args=[self._owner, self._ttl_ms, "wanted"]))

    async def renew(self) -> int:
        """Hold on. The token: another one than before, or 0, when the lease was lost in between."""
        return int(await self._lease(keys=[self._key], args=[self._owner, self._ttl_ms, "renew"]))

    async def read(self, token: int, command: Command) -> Any:
        """The reply to a command that reads beside the lease, once replicas have what it read.

        The renewal behind it, on the same connection, waits for them as every write does (`replicated.py`). Else what
        was read could be lost with its server, and something else be there in its place.

        Raises Fenced where the lease was lost; RedisError also where too few replicas have it.
        """
        renewal = self._lease.command([self._key], [self._owner, self._ttl_ms, "renew"])
        found, held = await self._redis.together([command, renewal])
        for reply in (held, found):
            if isinstance(reply, Exception):
                raise reply
        if held != token:
            raise Fenced("the lease went to another worker")
        return found

    async def keep(self, token: int) -> None:
        """Renew it, until a process that has fewer is to have it. Raises Fenced when it is lost."""
        renewals = 0
        while True:
            await asyncio.sleep(self._ttl_ms / 1000 / RENEWALS)
            if await self.renew() != token:
                raise Fenced("the lease went to another worker")
            renewals += 1
            if self._spread is None or self._spread.held < 2 or renewals % RENEWALS:
                continue
            if self._spread.lets_go(await self.wanted(), asyncio.get_running_loop().time()):
                return

    async def give_back(self) -> None:
        """Let the next owner take it at once."""
        await self._lease(keys=[self._key], args=[self._owner, 0, "renew"])

    async def commit(self, token: int, commands: Iterable[Command], keys: Iterable[str]) -> None:
        """Run `commands` in one atomic step if `token` is still the lease's; raises Fenced if not.

        After a lost connection the commands may or may not have run: read the state afresh.
        """
        arguments: list[Word] = [token, self._owner]
        for command in commands:
            arguments.append(len(command))
            arguments.extend(command)
        try:
            await self._fenced(keys=[self._key, *keys], args=arguments)
        except ResponseError as error:
            if "FENCED" in str(error):
                raise Fenced(str(error)) from error
            raise
