"""Connections to the log server.

redis-py does more for each command than is needed here: a task to send it, a lock, and calls for telemetry of its own,
each way through the pool. A task takes a dozen commands; `python -m tests.bench.commands` measures what one costs. What
stands below goes a shorter way to the library's own connections and parsers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import hiredis
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoReply
from redis.maint_notifications import MaintNotificationsConfig

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

# Longer than any BLOCK we use, shorter than a person's patience: a dead peer is noticed within it.
SOCKET_TIMEOUT_S = 5.0
BLOCK_MS = 1000
# So much may wait to be sent before a command waits for it: below that the transport does not ask us to.
UNSENT_BYTES = 32 * 1024


class _Direct(Connection):
    """A connection that writes its commands itself. The library's makes a task of each write, to bound its time; before
    Python 3.12 that also forgets a cancellation that arrives when the write is just done, and a worker told to stop
    would go on reading for ever."""

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        writer = self._writer
        try:
            writer.writelines([command.encode()] if isinstance(command, str) else command)
            if writer.transport.get_write_buffer_size() > UNSENT_BYTES:
                async with asyncio.timeout(SOCKET_TIMEOUT_S):
                    await writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise NoReply("timeout writing to the log server") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise ConnectionLost(f"cannot write to the log server: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # nobody knows how much of it was sent
            raise

    def pack_command(self, *args: Any) -> list[bytes]:
        if " " in args[0]:  # as in "SCRIPT LOAD"
            several: list[bytes] = super().pack_command(*args)
            return several
        packed: bytes = hiredis.pack_command(args)
        return [packed]


class _DirectTLS(_Direct, SSLConnection):
    """The same, encrypted."""


class _Pool(ConnectionPool):
    """The library's pool without its counters. A connection that the server has closed is not used again."""

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        connection = self.get_available_connection()
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)


class LogClient(Redis):
    """A client that never repeats a command by itself: a silent retry of an append would leave two entries."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        pool = self.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_command(*args)
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
            return [await self._reply(connection, one[0]) for one in commands]
        except BaseException:
            await connection.disconnect(nowait=True)  # replies may be left in it
            raise
        finally:
            await pool.release(connection)

    async def _reply(self, connection: Any, name: Any) -> Any:
        try:
            return await self.parse_response(connection, name)
        except ResponseError as error:
            return error


def connect(url: str, *, client_name: str, max_connections: int = 64) -> LogClient:
    """A client of the log server; `rediss://` for an encrypted connection."""
    pool = _Pool.from_url(
        url,
        connection_class=_DirectTLS if url.startswith("rediss:") else _Direct,
        client_name=client_name,
        max_connections=max_connections,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        # While it may get these (Redis Enterprise's), the library does not look whether an idle connection is still
        # open: after a restart of the server each of them would fail once, however much later it is used.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    client: LogClient = LogClient.from_pool(pool)
    return client


def script(redis: Redis, package: str, name: str) -> AsyncScript:
    """The server-side script `name`.lua that lies in `package`."""
    source = resources.files(package).joinpath(f"{name}.lua").read_text()
    registered: Any = redis.register_script(source)
    return registered
