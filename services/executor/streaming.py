"""A streamed answer on its way to whoever listens: published as it comes, and cut where it must not go on (ADR 9).

heard --published--> the gateways that listen
  |--a stop in scope, the hold passed, nobody listens--> cut
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from services.executor.execution import Stop
from services.executor.output_count import OutputCount
from services.executor.providers.protocol import Chunk
from shared.streams.pipeline import ScriptPipeline

TICK_S = 0.1
# A gateway that lost its connection listens again within this; who is gone for longer has left.
ALONE_S = 0.5
# After the last piece the end waits so long for a log that is away; then whoever listens hears that pieces are missing.
LAST_WORDS_S = 2.0
HOLD_REACHED, CLIENT_LEFT = "hold_reached", "client_left"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Cut:
    """Why a stream does not go on. `asked` false: the provider was not even asked."""

    reason: str
    detail: str
    asked: bool = True


class Streaming:
    """One answer being streamed. `stops` says whether an order stops it now."""

    def __init__(
        self,
        pipeline: ScriptPipeline,
        channel: str,
        attempt_id: UUID,
        stops: Callable[[], Stop | None],
        max_output_tokens: int | None,
    ) -> None:
        self._pipeline = pipeline
        self._attempt = str(attempt_id).encode()
        self._channel = channel
        self._stops = stops
        self._max_output_tokens = max_output_tokens
        self._unpublished: deque[bytes] = deque()
        self._published = 0
        self._heard = asyncio.Event()
        self._publishing: asyncio.Task[None] | None = None
        self._alone_since: float | None = None
        self._looking: asyncio.Task[bool] | None = None
        self._woken = asyncio.Event()
        self._is_asked = False
        self.count = OutputCount()
        self.chunks = 0
        self._is_over = False

    def asks(self) -> None:
        """The provider is asked now. Before, there is no stream to cut: who makes the call sees what stops it."""
        self._is_asked = True

    def hear(self, chunk: Chunk) -> None:
        """A piece from the provider; those of a call that goes on after its time is up are no longer passed on."""
        if self._is_over:
            return
        self.chunks += 1
        self.count.add(chunk.body)
        self._unpublished.append(chunk.raw.replace(b"\n", b" "))
        self._heard.set()

    def wake(self) -> None:
        """An order has come that may end it: that is looked at now, and not with the next tick."""
        self._woken.set()

    def look(self) -> None:
        """Ask whether anybody listens; the question travels with the record of the attempt, and costs no time."""
        self._looking = asyncio.create_task(self._look())

    async def is_awaited(self) -> bool:
        """Whether anybody listens, by the `look` before: to be known before the call is made."""
        return self._looking is None or await self._looking

    async def _look(self) -> bool:
        """Asked twice before it is believed that nobody does."""
        with suppress(RedisError):
            if await self._publish() == 0:
                await asyncio.sleep(ALONE_S)
                return await self._publish() > 0
        return True

    async def cut(self, calling: asyncio.Task[object], timeout_s: float) -> Cut | None:
        """Publish until the call is over, its time is up (None), or it must be cut: then it has been cancelled."""
        self._publishing = asyncio.create_task(self._keep_publishing())
        calling.add_done_callback(lambda _: self.wake())
        deadline = time.monotonic() + timeout_s
        try:
            while not calling.done() and (left_s := deadline - time.monotonic()) > 0:
                self._woken.clear()
                if cut := self._must_end():
                    calling.cancel()
                    await asyncio.wait({calling})
                    if not calling.cancelled():
                        calling.exception()  # what it may have said at the last moment changes nothing
                    return cut
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(TICK_S, left_s)):
                        await self._woken.wait()
            return None
        finally:
            await self._close()

    def _must_end(self) -> Cut | None:
        if not self._is_asked:
            return None
        if stop := self._stops():
            return Cut(stop.reason, "an order came while the answer was streamed")
        bound = self._max_output_tokens
        if bound is not None and self.count.at_least > bound:
            return Cut(HOLD_REACHED, f"more than the {bound} tokens came that were asked for and reserved")
        if self._alone_since is not None and time.monotonic() - self._alone_since > ALONE_S:
            return Cut(CLIENT_LEFT, "nobody listened any more")
        return None

    async def _keep_publishing(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._heard.wait()
            self._heard.clear()
            try:
                listeners = await self._publish()
            except RedisError as error:
                log.warning("pieces wait for the log", error=str(error))
                await asyncio.sleep(TICK_S)
                continue
            if listeners:
                self._alone_since = None
            elif self._alone_since is None:
                self._alone_since = time.monotonic()

    async def _publish(self) -> int:
        """Publish what waits, numbered, in one message; also where nothing does. How many listen."""
        lines = list(self._unpublished)
        message = b"\n".join([b"%s %d" % (self._attempt, self._published), *lines])
        listeners = int(await self._pipeline.command("SPUBLISH", self._channel, message))
        for _ in lines:
            self._unpublished.popleft()
        self._published += len(lines)
        return listeners

    async def _close(self) -> None:
        """The last pieces go before the end does."""
        self._is_over = True
        if self._publishing is not None:
            self._publishing.cancel()
            await asyncio.wait({self._publishing})
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                while self._unpublished:
                    try:
                        await self._publish()
                    except RedisError:
                        await asyncio.sleep(TICK_S)
