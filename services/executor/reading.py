"""Reading the decisions of all partitions that one command can name: one read for all of them, and no more at once than
there is room for. Each partition's worker takes in what is its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from services.executor.journal import GROUP
from services.executor.room import Room
from services.executor.worker import PartitionWorker
from shared.settings import Settings
from shared.streams.control_reader import ControlReader
from shared.streams.read import BLOCK_MS, Entry

RETRY_S = 0.1
READY_S = 0.01
# Where somebody waits for a place this reads on, to find the work of other tenants behind that of a busy one, but in no
# hurry: who has room takes it first. Sooner where places are kept for that work.
READ_AHEAD_S, READ_FOR_KEPT_S = 0.05, 0.005

log = structlog.get_logger(__name__)


class Reading:
    """One executor's reading of some partitions."""

    def __init__(
        self,
        redis: Redis,
        executor: str,
        workers: Sequence[PartitionWorker],
        control: ControlReader,
        room: Room,
        settings: Settings,
    ) -> None:
        self._redis = redis
        self._executor = executor
        self._workers = {worker.stream: worker for worker in workers}
        self._control = control
        self._room = room
        self._batch = max(1, min(settings.batch_size, settings.executor_concurrency // 2))
        # Not less when little more can be held: most of what stands in a stream may be no work at all.
        self._page = min(settings.batch_size, min(worker.max_held for worker in workers))
        self._turn = 0

    async def run(self) -> None:
        """Read and perform until cancelled; then let what is under way end, as far as it does in time."""
        while self._control.is_stale:  # else the first tasks would be blocked by nothing but our own start
            await asyncio.sleep(READY_S)
        workers = self._workers.values()
        janitors = [asyncio.create_task(worker.look_after()) for worker in workers]
        try:
            while not any(janitor.done() for janitor in janitors):
                try:
                    for worker in workers:
                        await worker.begin()
                    while not any(janitor.done() for janitor in janitors):
                        await self._read()
                        for worker in workers:
                            worker.problem = None
                except RedisError as error:
                    for worker in workers:
                        worker.problem = f"the log cannot be read: {error}"
                    log.warning("lost the log", streams=list(self._workers), error=str(error))
                    await asyncio.sleep(RETRY_S)
            for janitor in janitors:
                if janitor.done():
                    janitor.result()
        finally:
            await asyncio.gather(*(worker.drain() for worker in workers))
            for janitor in janitors:
                janitor.cancel()

    async def _read(self) -> None:
        """Take decisions: at once what there is room for, slowly more than that; where there are none, wait for one."""
        able = [stream for stream, worker in self._workers.items() if not worker.is_full]
        if not able:
            held = [task for worker in self._workers.values() for task in worker.held]
            await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        elif self._room.is_open:
            most = min(self._batch, self._room.free)
            if most >= len(able):
                await self._take(able, most // len(able), BLOCK_MS)
            # With less room than streams each has its turn.
            elif not await self._take(self._next(able, most), 1, None):
                await self._take(able, 1, BLOCK_MS)
        else:
            await self._room.opened(READ_FOR_KEPT_S if self._room.free else READ_AHEAD_S)
            if not self._room.is_open:
                await self._take(able, self._page, None)

    def _next(self, streams: list[str], count: int) -> list[str]:
        self._turn = (self._turn + count) % len(streams)
        return (streams[self._turn :] + streams[: self._turn])[:count]

    async def _take(self, streams: list[str], count: int, block_ms: int | None) -> bool:
        """Whether there was anything. Waits `block_ms` for the first entry (None: does not wait)."""
        waits = () if block_ms is None else ("BLOCK", block_ms)
        wanted = (*streams, *(">" for _ in streams))
        try:
            pages: dict[str, list[Entry]] = await self._redis.execute_command(
                "XREADGROUP", "GROUP", GROUP, self._executor, "COUNT", count, *waits, "STREAMS", *wanted
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            log.warning("a consumer group was lost, and is made again", streams=streams, group=GROUP)
            for stream in streams:
                await self._workers[stream].make_group()
            return True
        taking = [self._workers[stream].take_in(page, redelivered=False) for stream, page in pages.items()]
        if len(taking) == 1:
            await taking[0]
        else:  # what they acknowledge travels together
            await asyncio.gather(*taking)
        return bool(pages)
