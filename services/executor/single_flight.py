"""Single-flight: identical tasks that are in flight together share one call, also across executors.

The one that makes the call leads; its task id stands in the flight's key until it has landed. The others wait: in the
leader's process for an event, in another one for the key to go. Then they look into the cache, and if nothing is there
(the call failed) the first of them leads. A leader that died frees the flight when its time is over, at the latest.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from services.executor.delivery import Delivery
from shared.streams.pipeline import ScriptPipeline

LOOK_S = 0.01
GRACE_MS = 5000


class SingleFlight:
    """One executor's part in the flights."""

    def __init__(self, pipeline: ScriptPipeline) -> None:
        self._pipeline = pipeline
        self._in_the_air: dict[str, asyncio.Event] = {}

    async def lead(self, delivery: Delivery) -> str | None:
        """The flight's key if this task is to make the call, to be given to `landed`; None while another makes it."""
        key = flight_key(delivery)
        if key in self._in_the_air:
            return None
        self._in_the_air[key] = asyncio.Event()
        leads = False
        try:
            task_id = str(delivery.allowed.task.task_id)
            ttl_ms = delivery.allowed.timeout_ms + GRACE_MS
            # The holder may be this very task, from a delivery before.
            leads = bool(await self._pipeline.command("SET", key, task_id, "NX", "PX", ttl_ms)) or (
                await self._pipeline.command("GET", key) == task_id.encode()
            )
        finally:
            if not leads:
                self.landed(key)
        return key if leads else None

    def landed(self, key: str) -> None:
        """The call is over, one way or another, and the key is free: wake those who wait here."""
        event = self._in_the_air.pop(key, None)
        if event is not None:
            event.set()

    async def wait(self, delivery: Delivery) -> None:
        """Until the identical call may be over; not much longer than it may take."""
        key = flight_key(delivery)
        with suppress(TimeoutError):
            async with asyncio.timeout((delivery.allowed.timeout_ms + GRACE_MS) / 1000):
                if event := self._in_the_air.get(key):
                    await event.wait()
                else:
                    await self._watch(key)

    async def _watch(self, key: str) -> None:
        """Look for the end of a call that another executor makes. One looks for all that wait here."""
        self._in_the_air[key] = asyncio.Event()
        try:
            while await self._pipeline.command("EXISTS", key):
                await asyncio.sleep(LOOK_S)
        finally:
            self.landed(key)


def flight_key(delivery: Delivery) -> str:
    """Tasks fly together that ask the same at the same watermark."""
    task = delivery.allowed.task
    assert task.cache_key is not None, "only tasks that use the cache fly together"
    return delivery.partition.flight(f"{task.cache_key}:{task.cache_watermark}")
