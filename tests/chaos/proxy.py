"""A TCP link between a service and its server that can be cut, slowed down, or made to swallow what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

State = Literal["open", "slow", "silent", "cut"]

SLOW_S = 0.08
CHUNK = 65_536


class Link:
    """Forwards every connection to `port` of this machine, in the state that it is in.

    slow: each piece is late. silent: what is sent stays in the link until it opens. cut: connections are reset, and new
    ones are closed at once.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._state: State = "open"
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        self._open.set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End every connection."""
        self.turn("cut")
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def turn(self, state: State) -> None:
        """Be in this state from now on."""
        self._state = state
        if state == "silent":
            self._open.clear()
        else:
            self._open.set()
        if state == "cut":
            for writer in self._writers:
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "started by the server as a task"
        self._tasks.add(task)
        self._writers.add(writer)
        far_writer: asyncio.StreamWriter | None = None
        try:
            if self._state == "cut":
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers.add(far_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, far_writer)),
                asyncio.create_task(self._pump(far_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, as it may be; or the link ends, and this with it
        finally:
            self._tasks.discard(task)
            for one in (writer, far_writer):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._open.wait()
                if self._state == "slow":
                    await asyncio.sleep(SLOW_S)
                writer.write(data)
                await writer.drain()
