"""Following the control stream: every service reads all of it, so that an order reaches each within milliseconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.control_state import ControlState, evolve
from shared.events.control import parse_control
from shared.partitions import CONTROL
from shared.streams.read import Entry, read_after

# A return of the blocking read, even an empty one, proves that the stream can be read: this is the heartbeat.
HEARTBEAT_MS = 250
PAGE = 1000
RETRY_S = 0.05

log = structlog.get_logger(__name__)


class ControlReader:
    """Keeps `state` at the end of the control stream, and knows how long ago that was sure."""

    def __init__(self, redis: Redis, staleness_ms: int) -> None:
        self._redis = redis
        self._staleness_s = staleness_ms / 1000
        self._fresh_at = float("-inf")
        self._changed: list[Callable[[ControlState], None]] = []
        self.state = ControlState()

    @property
    def is_stale(self) -> bool:
        """True when the stream could not be read for longer than the staleness bound: then nothing may be allowed."""
        return time.monotonic() - self._fresh_at > self._staleness_s

    def on_change(self, callback: Callable[[ControlState], None]) -> None:
        """Call `callback` with the new state after entries were applied."""
        self._changed.append(callback)

    async def catch_up(self) -> None:
        """Apply everything that is in the stream now. Raises RedisError when it cannot be read."""
        while True:
            asked_at = time.monotonic()
            reply: Any = await self._redis.xrange(CONTROL, min=f"({self.state.position}", count=PAGE)
            self._apply(reply)
            if len(reply) < PAGE:
                self._fresh_at = asked_at
                return

    async def follow(self) -> None:
        """Apply entries as they come, until cancelled; through lost connections too."""
        while True:
            try:
                # Not at once by a blocking read: on a quiet stream that would say nothing for its first heartbeat.
                await self.catch_up()
                while True:
                    await self._beat()
            except RedisError as error:
                log.warning("control stream cannot be read", error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _beat(self) -> None:
        asked_at = time.monotonic()
        pages = await read_after(self._redis, {CONTROL: self.state.position}, PAGE, HEARTBEAT_MS)
        entries = pages.get(CONTROL, [])
        self._apply(entries)
        # Not empty, less than a page: we had it all when we asked. Empty: nothing came until the server gave up
        # waiting; never count the time since then, in which the reply, or this whole process, may have been held up.
        if len(entries) < PAGE:
            waited_s = 0 if entries else HEARTBEAT_MS / 1000
            self._fresh_at = min(time.monotonic(), asked_at + waited_s)

    def _apply(self, entries: list[Entry]) -> None:
        before = self.state
        for raw_id, fields in entries:
            entry_id = raw_id.decode()
            try:
                self.state = evolve(self.state, entry_id, parse_control(fields.get(b"data")))
            except Exception as error:
                # Not only InvalidControl: what nobody foresaw must not keep the next entry from being read. The
                # gateway's control group puts it into the dead letters; here it only must not stop anybody.
                log.warning("control entry ignored", entry=entry_id, problem=str(error))
                self.state = replace(self.state, position=entry_id)
        if self.state is not before:
            for callback in self._changed:
                callback(self.state)
