"""Connections to the log server.

redis-py does more for each command than is needed here: a task to send it, a lock, and calls for telemetry of its own,
each way through the pool. A task takes a dozen commands; `python -m tests.bench.commands` measures what one costs. What
stands below goes a shorter way to the library's own connections and parsers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from hashlib import sha1
from importlib import resources
from typing import Any

import hiredis
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as NoReply
from redis.maint_notifications import MaintNotificationsConfig

from shared.streams.address import several_servers
from shared.streams.read import entries_by_stream
from shared.streams.wire import Wire

# Longer than any BLOCK we use, shorter than a person's patience: a dead peer is noticed within it.
SOCKET_TIMEOUT_S = 5.0
BLOCK_MS = 1000
NAMES = 1000
# Said to the server on each connection: this process follows the log when it grows. Older releases do not say so.
FOLLOWS = ("skeldir", "2")
# To one server. A service has a few for each partition that it works on, and the log may grow.
MAX_CONNECTIONS = 1280

# What the server says while it, or who takes over from it, is not ready yet.
PASSING = (
    ConnectionLost,
    NoReply,
    ReadOnlyError,
    OutOfMemoryError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
    OSError,
)
PASSING_CODES = ("NOREPLICAS", "MISCONF", "UNBLOCKED")


def passes(error: Exception) -> bool:
    """Whether the server may take the same command in a moment: it is not the command that it refused."""
    return isinstance(error, PASSING) or (isinstance(error, ResponseError) and str(error).startswith(PASSING_CODES))


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


def replicas_wanted(url: str, min_replicas: int | None) -> int:
    """How many replicas must have an append before it counts. None: one, where another server may take over, else none.

    Raises InvalidAddress.
    """
    return int(several_servers(url) is not None) if min_replicas is None else min_replicas


def connect(
    url: str, *, client_name: str, max_connections: int = MAX_CONNECTIONS, min_replicas: int | None = None
) -> LogClient:
    """A client of the log: on one server, a cluster, or behind sentinels, as the URL says (see `address.py`).

    An append counts once `min_replicas` have it (`replicas_wanted`).
    `max_connections` are to each server. Raises InvalidAddress.
    """
    from shared.streams import cluster, replicated, sentinel  # here, since they are made of what stands above

    def server(url: str, pool_class: type[DirectPool] = DirectPool, **more: Any) -> LogClient:
        pool = _pool(url, pool_class, {"client_name": client_name, "max_connections": max_connections, **more})
        return replicated.client(pool, wanted) if wanted else LogClient.from_pool(pool)

    address = several_servers(url)
    wanted = replicas_wanted(url, min_replicas)
    if address is None:
        return server(url)
    if address.kind == "cluster":
        return cluster.ClusterClient(address.hosts, lambda host, port: server(address.server(host, port)))
    watchers = [
        LogClient.from_pool(_pool(address.sentinel(*host), DirectPool, {"client_name": client_name}))
        for host in address.hosts
    ]
    sentinels = sentinel.Sentinels(watchers, address.service)
    return server(address.server(*address.hosts[0]), sentinel.FollowedPool, sentinels=sentinels)


def _pool(url: str, pool_class: type[DirectPool], options: dict[str, Any]) -> DirectPool:
    pool: DirectPool = pool_class.from_url(
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
    pool.connection_class = kinds.get(url.partition(":")[0], pool_class.plain)
    return pool


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
