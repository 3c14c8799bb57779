"""Reading a stream as one of a consumer group, for as long as the gateway runs: why not by FastStream, says ADR 7.

read or claimed --handled--> acknowledged (and, on the inbox, removed)
read or claimed --not now--> pending --silent for claim_idle--> claimed again, by whoever lives
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from services.gateway.metrics import SET_ASIDE
from shared.settings import Settings
from shared.streams.consumer_group import ConsumerGroup
from shared.streams.dead_letters import dead_letter
from shared.streams.passing import passes
from shared.streams.pipeline import ScriptPipeline
from shared.streams.read import BLOCK_MS, Entry

RETRY_S = 0.1
# Pause after a batch of which something could not be taken: what is not taken waits in the stream.
PAUSE_S = 0.25
# Reading that says nothing for so long is not reading, whatever it is doing.
SILENCE_S = 5.0
# Consumers of gateways that are gone, with nothing left in their name, are removed after so long.
SWEEP_MS = 3_600_000
MAX_REMEMBERED = 10_000

log = structlog.get_logger(__name__)


class Unacceptable(ValueError):
    """The entry can never be taken; the text says why."""


class NotNow(Exception):
    """The entry cannot be taken yet; it is to come again."""


Take = Callable[[str, dict[bytes, bytes]], Awaitable[None]]


class GroupReader:
    """Hands each entry to `take`. What it calls Unacceptable goes to the dead letters; the rest of a batch flows on."""

    def __init__(
        self, redis: Redis, stream: str, group: str, consumer: str, take: Take, settings: Settings, *, removes: bool
    ) -> None:
        self._stream = stream
        self._group = ConsumerGroup(redis, stream, group, consumer)
        self._pipeline = ScriptPipeline(redis)
        self._take = take
        self._batch = settings.batch_size
        self._max_refusals = settings.max_refusals
        self._claim_idle_ms = settings.executor_claim_idle_ms
        self._done = self._group.remove if removes else self._group.acknowledge
        self._refusals: OrderedDict[bytes, int] = OrderedDict()
        self._problem: str | None = "has not read yet"
        self._read_at = float("-inf")

    @property
    def problem(self) -> str | None:
        """What keeps it from reading; None while it reads."""
        silence_s = asyncio.get_running_loop().time() - self._read_at
        if self._problem is None and silence_s > SILENCE_S:
            return f"has not read for {silence_s:.0f} s"
        return self._problem

    async def run(self) -> None:
        """Until cancelled; through lost connections and lost groups."""
        while True:
            try:
                await self._group.ensure()
                await self._group.sweep(SWEEP_MS)
                await self._read()
            except RedisError as error:
                self._problem = f"the log cannot be read: {error}"
                log.warning("lost the log", stream=self._stream, error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        claim_at = loop.time()
        while True:
            claimed: list[Entry] = []
            if loop.time() >= claim_at:
                # What consumers that went silent have left, this gateway's last life among them.
                claimed = await self._group.claim(self._claim_idle_ms, self._batch)
                if not claimed:
                    claim_at = loop.time() + self._claim_idle_ms / 4000
                await self._deal_with(claimed)
            fresh = await self._group.read(self._batch, None if claimed else BLOCK_MS)
            self._read_at, self._problem = loop.time(), None
            await self._deal_with(fresh)

    async def _deal_with(self, entries: list[Entry]) -> None:
        if not entries:
            return
        done = [entry_id for entry_id in await asyncio.gather(*map(self._one, entries)) if entry_id is not None]
        await self._done(done)
        if len(done) < len(entries):
            await asyncio.sleep(PAUSE_S)

    async def _one(self, entry: Entry) -> str | None:
        """The entry's id, when it has been dealt with."""
        entry_id, fields = entry
        try:
            try:
                await self._take(entry_id.decode(), fields)
            except Unacceptable as error:
                await self._set_aside(entry, str(error))
            except (NotNow, RedisError) as error:
                if not self._is_refused_for_good(entry_id, error):
                    return None
                await self._set_aside(entry, f"refused {self._max_refusals} times: {error}")
            except Exception as error:
                # What nobody foresaw is our mistake; here it must not keep the other entries from being taken.
                # Its own words may quote the entry, and no prompt belongs into a log.
                log.error("entry cannot be handled", stream=self._stream, error=type(error).__name__)
                await self._set_aside(entry, f"cannot be handled: {type(error).__name__}")
        except RedisError as error:
            log.warning("entry is left for later", stream=self._stream, error=str(error))
            return None
        self._refusals.pop(entry_id, None)
        return entry_id.decode()

    def _is_refused_for_good(self, entry_id: bytes, error: Exception) -> bool:
        """Whether the server answered, and said no to just this entry, again and again; not to all writes of now."""
        if not isinstance(error, ResponseError) or passes(error):
            return False
        self._refusals[entry_id] = self._refusals.pop(entry_id, 0) + 1
        if len(self._refusals) > MAX_REMEMBERED:
            self._refusals.popitem(last=False)
        return self._refusals[entry_id] >= self._max_refusals

    async def _set_aside(self, entry: Entry, reason: str) -> None:
        await self._pipeline.command(*dead_letter(self._stream, entry[0], entry[1], reason))
        SET_ASIDE.labels(self._stream).inc()


def field(fields: dict[bytes, Any], name: bytes) -> bytes:
    """A field of an entry. Raises Unacceptable where it is missing."""
    found = fields.get(name)
    if found is None:
        raise Unacceptable(f"the entry has no field `{name.decode()}`")
    return bytes(found)
