"""Plain reading of streams by position, without a consumer group: the reader keeps its own place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from redis.asyncio import Redis

from shared.streams.connection import LogClient

Entry = tuple[bytes, dict[bytes, bytes]]


async def read_after(
    redis: Redis, after: Mapping[str, str], count: int, block_ms: int | None
) -> dict[str, list[Entry]]:
    """Up to `count` entries of each stream that come after the given ids; waits `block_ms` for the first one."""
    streams: Any = dict(after)
    reply: Any = await redis.xread(streams, count=count, block=block_ms)
    return entries_by_stream(reply)


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


def entries_by_stream(reply: Any) -> dict[str, list[Entry]]:
    """An XREAD or XREADGROUP reply as a mapping. redis-py gives pairs under RESP2, and lists in lists under RESP3."""
    if not reply:
        return {}
    pairs = reply.items() if isinstance(reply, dict) else reply
    found: dict[str, list[Entry]] = {}
    for name, pages in pairs:
        nested = bool(pages) and isinstance(pages[0], list)
        found[name.decode()] = [entry for page in pages for entry in page] if nested else list(pages)
    return found
