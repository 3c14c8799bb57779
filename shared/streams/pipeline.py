"""Commands of concurrent callers travel together: one round trip for all that came while the last one was under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError

from shared.streams.client import LogClient
from shared.streams.lease import Word
from shared.streams.script import Script

MAX_BATCH = 256


@dataclass(slots=True, eq=False)
class _Call:
    words: tuple[Word, ...]
    script: Script | None
    reply: asyncio.Future[Any]


class ScriptPipeline:
    """Runs scripts and commands. How many wait is bounded by how many callers there are: each awaits its own reply."""

    def __init__(self, redis: LogClient) -> None:
        self._redis = redis
        # One for each server: who waits for a server that hangs keeps nobody from the others.
        self._lanes: dict[Hashable, _Lane] = {}

    async def run(self, script: Script, keys: list[str], args: list[Word]) -> Any:
        """The script's reply. Raises RedisError; after a lost connection the script may or may not have run."""
        return await self._join(("EVALSHA", script.sha, len(keys), *keys, *args), script)

    async def command(self, *words: Word) -> Any:
        """The command's reply, as the client library reads it. Raises as `run`."""
        return await self._join(words, None)

    async def _join(self, words: tuple[Word, ...], script: Script | None) -> Any:
        home = self._redis.home_of(words)
        lane = self._lanes.get(home)
        if lane is None:
            lane = self._lanes[home] = _Lane(self._redis)
        call = _Call(words, script, asyncio.get_running_loop().create_future())
        lane.add(call)
        return await call.reply


class _Lane:
    """The calls that go to one server."""

    def __init__(self, redis: LogClient) -> None:
        self._redis = redis
        self._waiting: deque[_Call] = deque()
        self._sender: asyncio.Task[None] | None = None

    def add(self, call: _Call) -> None:
        """It goes with the next batch."""
        self._waiting.append(call)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            try:
                replies = await self._redis.together([call.words for call in batch])
                unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if unknown:  # the server was restarted: it does not know these scripts, and did not run them
                    again = [batch[at] for at in unknown]
                    await self._teach(again)
                    for at, reply in zip(
                        unknown, await self._redis.together([one.words for one in again]), strict=True
                    ):
                        replies[at] = reply
            except Exception as error:  # whatever it is, those who wait must hear of it
                replies = [error] * len(batch)
            for call, reply in zip(batch, replies, strict=True):
                if call.reply.done():
                    continue  # its caller was cancelled
                if isinstance(reply, BaseException):
                    call.reply.set_exception(reply)
                else:
                    call.reply.set_result(reply)

    async def _teach(self, calls: list[_Call]) -> None:
        for script in {call.script.sha: call.script for call in calls if call.script is not None}.values():
            await self._redis.script_load(script.source)
