"""Scripts of concurrent callers travel together: one round trip for all that came while the last one was under way."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from shared.streams.lease import Word

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

MAX_BATCH = 256


@dataclass(slots=True)
class _Call:
    script: AsyncScript
    keys: list[str]
    args: list[Word]
    reply: asyncio.Future[Any]


class ScriptPipeline:
    """Runs scripts. How many wait is bounded by how many callers there are: each awaits its own reply."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: deque[_Call] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def run(self, script: AsyncScript, keys: list[str], args: list[Word]) -> Any:
        """The script's reply. Raises RedisError; after a lost connection the script may or may not have run."""
        call = _Call(script, keys, args, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        return await call.reply

    async def _send(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            try:
                replies = await self._execute(batch)
                again = [call for call, reply in zip(batch, replies, strict=True) if isinstance(reply, NoScriptError)]
                if again:  # the server does not know them (it was restarted): these did not run
                    for script in {call.script.sha: call.script for call in again}.values():
                        await self._redis.script_load(script.script)
                    for call, reply in zip(again, await self._execute(again), strict=True):
                        replies[batch.index(call)] = reply
            except (RedisError, OSError) as error:
                replies = [error] * len(batch)
            for call, reply in zip(batch, replies, strict=True):
                if call.reply.done():
                    continue
                if isinstance(reply, BaseException):
                    call.reply.set_exception(reply)
                else:
                    call.reply.set_result(reply)

    async def _execute(self, batch: list[_Call]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for call in batch:
            pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
        return list(await pipeline.execute(raise_on_error=False))
