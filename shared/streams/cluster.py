"""A log on a Redis or Valkey Cluster: each command goes to the server that has its key's slot (ADR 25).

All keys of a partition share a slot, so all that a service does in one step stays on one server. Where a slot is, the
cluster says; when it has moved, the server that had it says so before it does anything, and the command goes on to the
other. A command whose connection was lost is not repeated: it may have run.

    learned --MOVED--> corrected, and soon learned anew
    learned --connection lost, CLUSTERDOWN--> doubted --next command of that server's--> learned anew
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from typing import Any

import structlog
from redis.asyncio.client import PubSub
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as NoReply

from shared.log_address import Host
from shared.partitions import CONTROL
from shared.streams.client import LogClient

SLOTS = 16384
REDIRECTIONS = 5
# A node that does not say in this time where the slots are is passed over.
ANSWER_S = 0.5
# So old may the map be before it is asked for beside the work; so soon it is asked for again by who doubts it.
LEARN_S, AGAIN_S = 1.0, 0.1
# These have no key; they go where the orders are, so that all services have the time from one server.
KEYLESS = frozenset(("INFO", "TIME", "PING", "CONFIG GET", "WAIT"))

log = structlog.get_logger(__name__)


class ClusterClient(LogClient):
    """A client of all of the cluster's primaries; `server` makes the one of a single server."""

    def __init__(self, hosts: Sequence[Host], server: Callable[[str, int], LogClient]) -> None:
        self._seeds = [(host, port) for host, port in hosts]
        self._server = server
        self._nodes = {self._seeds[0]: server(*self._seeds[0])}
        self._homes: list[Host | None] = [None] * SLOTS
        self._doubted: set[Host] = set()
        self._informant = self._seeds[0]
        self._replicas: set[Host] = set()
        self._learned_at = self._learn_at = float("-inf")
        self._learning: asyncio.Task[None] | None = None
        super().__init__(connection_pool=self._nodes[self._seeds[0]].connection_pool)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "SCRIPT LOAD":  # whoever is given the slots tomorrow is to know it
            return (await self.on_every_server(*args, **options))[0]
        home = await self._home(_slot(args))
        try:
            return await self._ask(home, args, options)
        except AskError as error:  # and MovedError, which is one
            return await self._redirected(error, home, args, options)

    async def together(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """As of one server. Where several are asked, of each command of a lost one there is its error."""
        asked: dict[Host, list[int]] = {}
        for at, one in enumerate(commands):
            asked.setdefault(await self._home(_slot(one)), []).append(at)
        if len(asked) == 1:
            ((home, _),) = asked.items()
            return [await self._settled(reply, home, one) for reply, one in
                    zip(await self._batch(home, commands), commands, strict=True)]  # fmt: skip
        found = await asyncio.gather(
            *(self._batch(home, [commands[at] for at in places]) for home, places in asked.items()),
            return_exceptions=True,
        )
        replies: list[Any] = [None] * len(commands)
        for (home, places), batch in zip(asked.items(), found, strict=True):
            if isinstance(batch, BaseException) and not isinstance(batch, RedisError):
                raise batch
            for at, reply in zip(
                places, [batch] * len(places) if isinstance(batch, RedisError) else batch, strict=True
            ):
                replies[at] = await self._settled(reply, home, commands[at])
        return replies

    def home_of(self, command: Sequence[Any]) -> Hashable:
        slot = _slot(command)
        return self._homes[slot] or slot

    def apart(self, keys: Sequence[str]) -> list[list[str]]:
        found: dict[int, list[str]] = {}
        for key in keys:
            found.setdefault(key_slot(key.encode()), []).append(key)
        return list(found.values())

    async def on_every_server(self, *command: Any, **options: Any) -> list[Any]:
        """The replies of those primaries that answer. Raises RedisError where none does."""
        await self._home(key_slot(CONTROL.encode()))
        primaries = dict.fromkeys(home for home in self._homes if home is not None)
        replies = await asyncio.gather(*(self._ask(one, command, options) for one in primaries), return_exceptions=True)
        answered = [reply for reply in replies if not isinstance(reply, BaseException)]
        if not answered:
            raise next(reply for reply in replies if isinstance(reply, BaseException))
        return answered

    async def names(self, pattern: str) -> AsyncIterator[list[bytes]]:
        await self._home(key_slot(CONTROL.encode()))
        for home in dict.fromkeys(home for home in self._homes if home is not None):
            async for page in self._at(home).names(pattern):
                yield page

    async def pubsub_at(self, channel: str) -> PubSub:
        return self._at(await self._home(key_slot(channel.encode()))).pubsub()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        if self._learning is not None:
            self._learning.cancel()
        await asyncio.gather(*(node.aclose() for node in self._nodes.values()), return_exceptions=True)

    def _at(self, host: Host) -> LogClient:
        if host not in self._nodes:
            self._nodes[host] = self._server(*host)
        return self._nodes[host]

    async def _ask(self, home: Host, command: Sequence[Any], options: dict[str, Any]) -> Any:
        try:
            return await self._at(home).execute_command(*command, **options)
        except (ConnectionLost, NoReply, ClusterDownError):
            self._doubted.add(home)
            raise

    async def _batch(self, home: Host, commands: Sequence[Sequence[Any]]) -> list[Any]:
        try:
            replies = await self._at(home).together(commands)
        except (ConnectionLost, NoReply):
            self._doubted.add(home)
            raise
        if any(isinstance(reply, ClusterDownError | NoReply) for reply in replies):
            self._doubted.add(home)
        return replies

    async def _settled(self, reply: Any, home: Host, command: Sequence[Any]) -> Any:
        """The reply, or that of the server which the command was sent on to."""
        if not isinstance(reply, AskError):
            return reply
        try:
            return await self._redirected(reply, home, command, {})
        except RedisError as error:
            return error

    async def _redirected(self, error: AskError, home: Host, command: Sequence[Any], options: dict[str, Any]) -> Any:
        """The server did nothing but say where to go."""
        for _ in range(REDIRECTIONS):
            home = (error.host or home[0], error.port)
            try:
                if isinstance(error, MovedError):
                    self._homes[error.slot_id], self._learn_at = home, float("-inf")
                    return await self._ask(home, command, options)
                reply = (await self._batch(home, [("ASKING",), command]))[1]
                if isinstance(reply, Exception):
                    raise reply
                return reply
            except AskError as another:
                error = another
        raise ClusterDownError(f"the cluster sends a command on and on, {REDIRECTIONS} times now: {error}")

    async def _home(self, slot: int) -> Host:
        """Where the slot is, as far as is known. Raises RedisError where nobody has it."""
        home = self._homes[slot]
        if home is None or home in self._doubted:
            await self._learn()
            home = self._homes[slot]
            if home is None:
                raise ClusterDownError(f"slot {slot} is on no server")
        elif asyncio.get_running_loop().time() >= self._learn_at and self._learned():
            self._learning = asyncio.create_task(self._learn_quietly())
        return home

    def _learned(self) -> bool:
        return self._learning is None or self._learning.done()

    async def _learn(self) -> None:
        """Ask where the slots are, unless that was asked just now; all who want to know share one asking."""
        if asyncio.get_running_loop().time() - self._learned_at < AGAIN_S:
            return
        if self._learned():
            self._learning = asyncio.create_task(self._read_map())
        assert self._learning is not None, "it has just been begun"
        await asyncio.shield(self._learning)

    async def _learn_quietly(self) -> None:
        try:
            await self._read_map()
        except RedisError as error:
            log.warning("the cluster does not say where its slots are", error=str(error))

    async def _read_map(self) -> None:
        loop = asyncio.get_running_loop()
        problem: Exception | None = None
        known = [self._informant, *dict.fromkeys(home for home in self._homes if home), *self._replicas, *self._seeds]
        for host in sorted(dict.fromkeys(known), key=lambda one: one in self._doubted):
            try:
                async with asyncio.timeout(ANSWER_S):
                    ranges = await self._at(host).execute_command("CLUSTER", "SLOTS")
            except (RedisError, OSError, TimeoutError) as error:
                problem = error
                continue
            await self._take_over(host, ranges)
            self._informant = host
            self._learned_at, self._learn_at = loop.time(), loop.time() + LEARN_S
            return
        self._learned_at, self._learn_at = loop.time(), loop.time() + AGAIN_S
        if isinstance(problem, ResponseError):
            raise problem
        raise ConnectionLost(f"no node of the cluster says where its slots are: {problem}")

    async def _take_over(self, informant: Host, ranges: Any) -> None:
        homes: list[Host | None] = [None] * SLOTS
        replicas: set[Host] = set()
        for first, last, primary, *others in ranges:
            home = _host(primary, informant)
            homes[first : last + 1] = [home] * (last + 1 - first)
            replicas.update(_host(one, informant) for one in others)
        self._homes, self._replicas = homes, replicas
        self._doubted.clear()
        primaries = set(filter(None, homes))
        gone = [host for host in self._nodes if host not in primaries and host not in self._seeds]
        # Whoever still waits for a reply from there would wait in vain: a server that hangs, or is a replica now.
        await asyncio.gather(*(self._nodes.pop(host).aclose() for host in gone), return_exceptions=True)


def _host(node: Any, informant: Host) -> Host:
    name = node[0].decode() if node[0] else ""
    return (name if name not in ("", "?") else informant[0], int(node[1]))


def _slot(command: Sequence[Any]) -> int:
    key = _key(command)
    slot: int = key_slot(key if isinstance(key, bytes) else str(key).encode())
    return slot


def _key(command: Sequence[Any]) -> Any:
    """The first key of a command; they all are in one slot, or the server refuses it."""
    name = command[0]
    if name in ("EVALSHA", "EVAL"):
        return command[3] if int(command[2]) else CONTROL
    if name in ("XREAD", "XREADGROUP"):
        words = list(command)
        return words[words.index("STREAMS" if "STREAMS" in words else b"STREAMS") + 1]
    if name == "SCAN":  # of one partition's keys, by its tag
        words = list(command)
        return words[words.index("MATCH" if "MATCH" in words else b"MATCH") + 1]
    return CONTROL if name in KEYLESS or len(command) < 2 else command[1]
