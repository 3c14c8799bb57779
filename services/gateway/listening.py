"""Listening to answers while they come: one connection for all streams that this gateway serves (ADR 9); on a cluster
one for each partition, whose channels are on one server.

Who listens to a task's channel is its listener: when the last one has gone the executor cuts the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError

from shared.partitions import Partition, partition_for
from shared.streams.client import LogClient
from shared.streams.growing import Partitions

RETRY_S = 0.1
SILENCE_S = 1.0
SUBSCRIBED_WITHIN_S = 5.0
# A client that reads too slowly for so many messages has lost some of them.
MAX_MESSAGES = 4096

log = structlog.get_logger(__name__)


class PiecesMissing(Exception):
    """Some pieces of the answer did not arrive, and what comes after them makes no sense."""


class Feed:
    """The pieces of one answer, in order."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[bytes] = asyncio.Queue(MAX_MESSAGES)
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost = False
        self._attempt = b""
        self.taken = 0
        """How many pieces were taken out."""

    def offer(self, message: bytes) -> None:
        """A message as it was published: its attempt and the number of its first piece, then a piece a line."""
        if b"\n" not in message or self._lost:
            return  # it only asked whether anybody listens
        if self._messages.full():
            self._lost = True
        else:
            self._messages.put_nowait(message)

    def lose(self) -> None:
        """Pieces may have been lost on the way."""
        if self.subscribed.done() and not self._messages.full():
            self._messages.put_nowait(b"")
        self._lost = self._lost or self.subscribed.done()

    async def confirmed(self) -> None:
        """Until the server says that it is subscribed. Raises TimeoutError."""
        async with asyncio.timeout(SUBSCRIBED_WITHIN_S):
            await self.subscribed

    async def pieces(self) -> list[bytes]:
        """The next pieces. Raises PiecesMissing where they do not follow on those before."""
        while True:
            if self._lost and self._messages.empty():
                raise PiecesMissing
            head, *lines = (await self._messages.get()).split(b"\n")
            attempt, _, number = head.partition(b" ")
            first = int(number or 2**53)
            if first > self.taken or (self.taken and attempt != self._attempt):
                self._lost = True
                raise PiecesMissing
            self._attempt = attempt
            # The same may come twice, where the reply to its publication got lost.
            if fresh := lines[self.taken - first :]:
                self.taken += len(fresh)
                return fresh


class Listening:
    """This gateway's subscriptions."""

    def __init__(self, redis: LogClient, partitions: Partitions, name: str) -> None:
        self._redis = redis
        self._partitions = partitions
        self._name = name
        self._lines: dict[int, _Line] = {}
        """By the partition that has a line first; others of the same server share it."""
        for one in partitions.all:
            self._line(one)

    @property
    def problem(self) -> str | None:
        """Why some answers cannot be listened to."""
        return next((line.problem for line in self._lines.values() if line.problem), None)

    async def follow(self) -> None:
        """Until cancelled; through lost connections."""
        await self._partitions.each(self._follow)

    async def _follow(self, partition: Partition) -> None:
        line = self._line(partition)
        if self._lines.get(partition.number) is line:
            await line.follow()
        await asyncio.Event().wait()  # another partition's line is this one's, too

    def _line(self, partition: Partition) -> _Line:
        # Of its own, so that there is a connection before the first stream and after the last.
        own = f"{partition.tag}:chunks:{self._name}"
        for line in self._lines.values():
            if line.own == own or len(self._redis.apart([line.own, own])) == 1:
                return line
        return self._lines.setdefault(partition.number, _Line(self._redis, own))

    @asynccontextmanager
    async def listen(self, tenant_id: UUID, task_id: UUID) -> AsyncIterator[Feed]:
        """The task's pieces from now on; to be entered before it is submitted. Raises RedisError.

        The subscription is on its way before the task is, and the server takes it in first; that it did is to be waited
        for (`Feed.confirmed`) afterwards, beside the time that the task takes.
        """
        partition = partition_for(tenant_id, self._partitions.number)
        async with self._line(partition).listen(partition.chunks(task_id)) as feed:
            yield feed


class _Line:
    """One connection, and the channels of which it hears."""

    def __init__(self, redis: LogClient, own: str) -> None:
        self._redis = redis
        self._pubsub: PubSub | None = None
        self.own = own
        self._feeds: dict[str, set[Feed]] = {}
        self._one_at_a_time = asyncio.Lock()
        self.problem: str | None = "has not read yet"

    async def follow(self) -> None:
        """Until cancelled; through lost connections."""
        try:
            while True:
                try:
                    if self._pubsub is None or self.problem:
                        await self._close()
                        self._pubsub = await self._redis.pubsub_at(self.own)
                        await self._pubsub.ssubscribe(self.own, *self._feeds)
                        self.problem = None
                    self._take(await self._pubsub.get_message(timeout=SILENCE_S))
                except (RedisError, OSError) as error:
                    self.problem = f"the log cannot be listened to: {error}"
                    for feeds in self._feeds.values():
                        for feed in feeds:
                            feed.lose()
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._close()

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Feed]:
        """A feed of the channel. Raises RedisError."""
        feed = Feed()
        feeds = self._feeds.setdefault(channel, set())
        feeds.add(feed)
        try:
            if self.problem or self._pubsub is None:
                raise ConnectionLost(self.problem)
            async with self._one_at_a_time:
                await self._pubsub.ssubscribe(channel)
            yield feed
        finally:
            feeds.discard(feed)
            if not feeds and self._feeds.get(channel) is feeds:
                del self._feeds[channel]
                await self._leave(channel)

    async def _close(self) -> None:
        if self._pubsub is not None:
            pubsub, self._pubsub = self._pubsub, None
            await pubsub.aclose()

    async def _leave(self, channel: str) -> None:
        try:
            async with self._one_at_a_time:
                if (
                    channel not in self._feeds and self._pubsub is not None
                ):  # else somebody has come to listen meanwhile
                    await self._pubsub.sunsubscribe(channel)
        except (RedisError, OSError) as error:  # with the connection the subscription is gone, too
            log.debug("unsubscribing failed", error=str(error))

    def _take(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        channel = message["channel"].decode()
        if message["type"] == "sunsubscribe" and channel == self.own:
            raise ConnectionLost("the slot has moved to another server")
        feeds = self._feeds.get(channel, ())
        if message["type"] == "ssubscribe":
            for feed in feeds:
                if not feed.subscribed.done():
                    feed.subscribed.set_result(None)
        elif message["type"] == "smessage":
            for feed in feeds:
                feed.offer(message["data"])
