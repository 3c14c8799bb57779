"""Scripts that run on the log server: what is done in one step, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError


class Script:
    """A server-side script. A server that does not know it has not run it: it is told what it is, and asked again."""

    def __init__(self, redis: Redis, source: str) -> None:
        self._redis = redis
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        """Its reply. Raises RedisError; after a lost connection it may or may not have run."""
        command = self.command(keys, args)
        try:
            return await self._redis.execute_command(*command)
        except NoScriptError:
            await self._redis.script_load(self.source)
            return await self._redis.execute_command(*command)

    def command(self, keys: Sequence[str], args: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The command that runs it, where the server knows it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


def script(redis: Redis, package: str, name: str) -> Script:
    """The server-side script `name`.lua that lies in `package`."""
    return Script(redis, resources.files(package).joinpath(f"{name}.lua").read_text())
