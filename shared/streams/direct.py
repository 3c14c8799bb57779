"""The library's connections to the log server, by a shorter way.

redis-py does more for each command than is needed here: a task to send it, a lock, and calls for telemetry of its own,
each way through the pool. A task takes a dozen commands; `python -m tests.bench.commands` measures what one costs. What
stands here and in `client.py` goes a shorter way to the library's own connections and parsers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoReply
from redis.maint_notifications import MaintNotificationsConfig

from shared.streams.wire import Wire

# Longer than any BLOCK we use, shorter than a person's patience: a dead peer is noticed within it.
SOCKET_TIMEOUT_S = 5.0
# Said to the server on each connection: this process follows the log when it grows. Older releases do not say so.
FOLLOWS = ("skeldir", "2")


class DirectConnection(Connection):
    """A connection that writes its commands itself. The library's makes a task of each write, to bound its time; before
    Python 3.12 that also forgets a cancellation that arrives when the write is just done, and a worker told to stop
    would go on reading for ever."""

    async def replies(self, number: int) -> list[Any]:
        """The next so many; of a command that was refused its ResponseError. Raises NoReply, ConnectionLost."""
        wire: Any = self._reader
        if wire is None:
            raise ConnectionLost("the connection to the log server is closed")
        wire.within(SOCKET_TIMEOUT_S)
        try:
            return [await self._parser.read_response() for _ in range(number)]
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise NoReply("timeout reading from the log server") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise ConnectionLost(f"cannot read from the log server: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # replies may be left in it
            raise
        finally:
            wire.within(None)

    async def read_response(self, disable_decoding: bool = False, timeout: float | None = None, **options: Any) -> Any:
        if timeout is not None or options:  # for a subscriber, who waits as long as it likes
            return await super().read_response(disable_decoding, timeout, **options)
        (reply,) = await self.replies(1)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        wire: Any = self._writer
        try:
            wire.writelines([command.encode()] if isinstance(command, str) else command)
            if wire.is_full:
                async with asyncio.timeout(SOCKET_TIMEOUT_S):
                    await wire.drain()
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

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.socket_connect_timeout):
            wire = await self._open(loop)
        self._reader = self._writer = wire

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Wire:
        _, wire = await loop.create_connection(lambda: Wire(loop), **self._connection_arguments())
        found = wire.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in self.socket_keepalive_options.items():
            found.setsockopt(socket.IPPROTO_TCP, option, value)
        return wire


class DirectTLSConnection(DirectConnection, SSLConnection):
    """The same, encrypted."""


class DirectLocalConnection(DirectConnection, UnixDomainSocketConnection):
    """The same, on this machine, by a socket that has a path."""

    def _host_error(self) -> str:
        return str(self.path)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Wire:
        _, wire = await loop.create_unix_connection(lambda: Wire(loop), self.path)
        return wire


class DirectPool(ConnectionPool):
    """The library's pool without its counters. A connection that the server has closed is not used again."""

    plain: type[Connection] = DirectConnection
    encrypted: type[Connection] = DirectTLSConnection
    local: type[Connection] = DirectLocalConnection

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        connection = self.get_available_connection()
        try:
            if not connection.is_connected or await connection.can_read():
                await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        self._in_use_connections.remove(connection)
        self._available_connections.append(connection)


def pool(url: str, pool_class: type[DirectPool], **options: Any) -> DirectPool:
    """Connections to the server that the URL names."""
    made: DirectPool = pool_class.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        driver_info=DriverInfo().add_upstream_driver(*FOLLOWS),
        # While it may get these (Redis Enterprise's), the library does not look whether an idle connection is still
        # open: after a restart of the server each of them would fail once, however much later it is used.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **options,
    )
    kinds = {"rediss": pool_class.encrypted, "unix": pool_class.local}  # given as an option, the URL's own would win
    made.connection_class = kinds.get(url.partition(":")[0], pool_class.plain)
    return made
