"""One clock: the log server's. A service whose own clock is wrong still agrees with the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

SYNCHRONISE_S = 1.0
FIRST_RETRY_S = 0.05


class Clock(Protocol):
    """Where the shell gets the time that it passes into the pure core."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""


class ServerClock:
    """The log server's time, carried forward by the monotonic clock between two readings."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._read = asyncio.Event()

    def first(self, worker: Callable[[], Awaitable[None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        """The worker, begun after the first reading: until then the time is this process's own, which may be wrong."""

        async def run() -> None:
            await self._read.wait()
            await worker()

        return run

    async def follow(self, redis: Redis) -> None:
        """Read the server's time every second, until cancelled. While it cannot be read the last reading counts."""
        while True:
            with suppress(RedisError):
                self.synchronise(*await redis.time())
            await asyncio.sleep(SYNCHRONISE_S if self._read.is_set() else FIRST_RETRY_S)

    def synchronise(self, server_seconds: int, server_microseconds: int) -> None:
        """Take over a reply of `TIME`. The reading may be late by the reply's way back, never early."""
        server_ns = (server_seconds * 1_000_000 + server_microseconds) * 1000
        self._offset_ns = server_ns - time.monotonic_ns()
        self._read.set()

    def now_ms(self) -> int:
        return (time.monotonic_ns() + self._offset_ns) // 1_000_000
