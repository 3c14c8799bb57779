"""The bytes of one connection to the log server.

The standard library's streams, and a timer for each reply, cost the client more than the system calls of a command do
(`python -m tests.bench.commands`). This is as much of a StreamReader and a StreamWriter as redis-py asks of them.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

# More than so much that nobody has read yet is left to the server, which has its own bound for it.
UNREAD_BYTES = 256 * 1024


class Wire(asyncio.Protocol):
    """Reads and writes; one at a time may wait for what comes, and as long as `due` says."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buffer = bytearray()  # by this name redis-py looks whether something is left in it
        self._closed = loop.create_future()
        self._ended = False
        self._problem: Exception | None = None
        self._held_up = False
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, _: int = -1) -> bytes:
        """What has come, at least a byte; nothing at the end. Raises TimeoutError, and the OSError that ended it."""
        while not self._buffer:
            if self._problem is not None:
                raise self._problem
            if self._ended:
                return b""
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        found = bytes(self._buffer)
        self._buffer.clear()
        if self._held_up:
            self._held_up = False
            self._transport.resume_reading()
        return found

    def at_eof(self) -> bool:
        """Whether nothing comes any more."""
        return self._ended and not self._buffer

    def within(self, seconds: float | None) -> None:
        """From here on nobody waits longer than this for something to come (None: for ever)."""
        if seconds is None:
            self._due = None
            return
        self._due = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def writelines(self, parts: list[bytes]) -> None:
        """Send these, some time."""
        self._transport.writelines(parts)

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that one should wait for it (`drain`)."""
        return self._writable is not None

    async def drain(self) -> None:
        """Wait until less does."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def close(self) -> None:
        """Send what waits to be sent, and close."""
        self._transport.close()

    async def wait_closed(self) -> None:
        """Until it is."""
        await asyncio.shield(self._closed)

    def get_extra_info(self, name: str) -> Any:
        """What the transport knows."""
        return self._transport.get_extra_info(name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > UNREAD_BYTES and not self._held_up:
            self._held_up = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended, self._problem = True, error
        self._wake()
        self.resume_writing()
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self) -> None:
        """One timer for all replies: it looks again when the latest of them is due."""
        self._timer = None
        if self._due is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._look)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())
