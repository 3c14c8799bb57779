"""One writer a partition: leases with fencing tokens, and the commit that checks the token.

    free --take--> held(token n) --renew--> held(token n)
    held(token n) --expires or given back--> free --take--> held(token n + 1)

A worker that was paused past its lease still believes it holds token n; its next commit is refused by the server,
because the lease then says n + 1 (M. Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.streams.connection import script

Word = bytes | str | int
Command = Sequence[Word]


class Fenced(Exception):
    """Another worker holds the lease: nothing was written, and what this worker believes is out of date."""


class Lease:
    """The lease `key`, wanted by `owner`."""

    def __init__(self, redis: Redis, key: str, owner: str, ttl_ms: int) -> None:
        self._key = key
        self._owner = owner
        self._ttl_ms = ttl_ms
        self._lease = script(redis, "shared.streams", "lease")
        self._fenced = script(redis, "shared.streams", "fenced")

    async def take(self) -> int:
        """Take it, with a new fencing token; 0 while another owner holds it.

        To be called before state is loaded: a commit that is still on its way from before is refused from here on.
        """
        return int(await self._lease(keys=[self._key], args=[self._owner, self._ttl_ms, "take"]))

    async def renew(self) -> int:
        """Hold on. The token: another one than before, or 0, when the lease was lost in between."""
        return int(await self._lease(keys=[self._key], args=[self._owner, self._ttl_ms, "renew"]))

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
