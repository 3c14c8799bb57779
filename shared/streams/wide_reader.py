"""Reading streams that may be on several servers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType

from shared.streams.client import LogClient
from shared.streams.read import Entry, read_after


class WideReader:
    """Reads streams of several partitions, which on a cluster no single command can: there one read for each waits.

    Those that found nothing go on waiting from one `read` to the next: a position must only move by what was returned.
    To be closed (`async with`).
    """

    def __init__(self, redis: LogClient) -> None:
        self._redis = redis
        self._under_way: dict[str, asyncio.Task[dict[str, list[Entry]]]] = {}

    async def __aenter__(self) -> WideReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._under_way.values())
        self._under_way.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def read(self, after: Mapping[str, str], count: int, block_ms: int) -> dict[str, list[Entry]]:
        """As `read_after`."""
        groups = self._redis.apart(list(after))
        if len(groups) == 1:
            return await read_after(self._redis, after, count, block_ms)
        for first, *others in groups:
            if first not in self._under_way:
                wanted = {stream: after[stream] for stream in (first, *others)}
                self._under_way[first] = asyncio.create_task(read_after(self._redis, wanted, count, block_ms))
        done, _ = await asyncio.wait(
            self._under_way.values(), timeout=block_ms / 1000, return_when=asyncio.FIRST_COMPLETED
        )
        for first in [first for first, task in self._under_way.items() if task in done]:
            del self._under_way[first]
        # All of them are taken out before one of them raises: what another has read is then read again.
        return {stream: page for pages in [task.result() for task in done] for stream, page in pages.items()}
