"""The partitions that a process works on: as many as the log has, also when it grows while the process runs.

That it has grown is said on the control stream (`partitions.set`); how many there are, by the log's own record, which
no operator writes by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.control_state import ControlState
from shared.partitions import Partition
from shared.streams.control_reader import ControlReader
from shared.streams.partition_count import recorded

RETRY_S = 0.2

Work = Callable[[Partition], Coroutine[Any, Any, None]]

log = structlog.get_logger(__name__)


class Partitions:
    """How many there are, as far as this process knows."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._said = asyncio.Event()
        self._grown = asyncio.Condition()

    @property
    def all(self) -> list[Partition]:
        """Each of them."""
        return [Partition(number) for number in range(self.number)]

    def listen(self, control: ControlReader) -> None:
        """Hear of it from these orders."""
        control.on_change(self._hear)

    async def follow(self, redis: Redis) -> None:
        """Look at the record whenever there is said to be more, until cancelled."""
        while True:
            await self._said.wait()
            self._said.clear()
            try:
                found = await recorded(redis)
            except RedisError as error:
                log.warning("how many partitions there are is not known", error=str(error))
                await asyncio.sleep(RETRY_S)
                self._said.set()
                continue
            if found is not None and found.number > self.number:
                log.info("the log has grown", partitions=found.number, before=self.number)
                await self.grow(found.number)

    async def grow(self, number: int) -> None:
        """From here on there are so many."""
        async with self._grown:
            self.number = number
            self._grown.notify_all()

    async def each(self, work: Work) -> None:
        """`work` for each partition, and for each that comes, until cancelled. Ends, or raises, as one of them does."""
        running: set[asyncio.Task[None]] = set()
        begun = 0
        try:
            while True:
                running |= {asyncio.create_task(work(Partition(number))) for number in range(begun, self.number)}
                begun = self.number
                grown = asyncio.create_task(self._more_than(begun))
                try:
                    done, _ = await asyncio.wait({grown, *running}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    grown.cancel()
                if ended := done - {grown}:
                    ended.pop().result()
                    return
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _more_than(self, number: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: self.number > number)

    def _hear(self, state: ControlState) -> None:
        if state.partitions and state.partitions[0] > self.number:
            self._said.set()
