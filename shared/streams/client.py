"""What every client of the log can do, be it of one server, of a cluster or behind sentinels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ResponseError

from shared.streams.read import entries_by_stream

NAMES = 1000


class LogClient(Redis):
    """A client that never repeats a command by itself: a silent retry of an append would leave two entries.

    Its replies are redis-py's; to XREAD and XREADGROUP they are `entries_by_stream`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("XREAD", "XREADGROUP"):
            self.set_response_callback(name, entries_by_stream)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        pool = self.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(connection.pack_command(*args))
            return await self.parse_response(connection, args[0], **options)
        finally:
            await pool.release(connection)

    async def together(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies to all of these, in one round trip; of each that was refused its ResponseError.

        Raises RedisError where the connection was lost: then any of them may or may not have run.
        """
        pool = self.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command([part for one in commands for part in connection.pack_command(*one)])
            replies = await connection.replies(len(commands))
            return [self._read(one[0], reply) for one, reply in zip(commands, replies, strict=True)]
        finally:
            await pool.release(connection)

    def home_of(self, command: Sequence[Any]) -> Hashable:
        """Where the command goes: what goes to the same place may travel together. Here it is one server."""
        return None

    def apart(self, keys: Sequence[str]) -> list[list[str]]:
        """The keys, in groups that one command may name together."""
        return [list(keys)]

    async def on_every_server(self, *command: Any, **options: Any) -> list[Any]:
        """The replies of all servers that hold a part of the log."""
        return [await self.execute_command(*command, **options)]

    async def names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Pages of the names of all keys that match. One may come twice. Raises RedisError."""
        cursor = 0
        while True:
            cursor, page = await self.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", NAMES)
            yield page
            if not int(cursor):
                return

    async def pubsub_at(self, channel: str) -> PubSub:
        """For sharded channels that are where this one is."""
        return self.pubsub()

    def _read(self, name: Any, reply: Any) -> Any:
        """As redis-py gives the reply to that command."""
        read = self.response_callbacks.get(name)
        return reply if read is None or isinstance(reply, ResponseError) else read(reply)
