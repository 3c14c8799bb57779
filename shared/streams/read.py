"""Plain reading of streams by position, without a consumer group: the reader keeps its own place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

if TYPE_CHECKING:
    from shared.streams.connection import LogClient

Entry = tuple[bytes, dict[bytes, bytes]]


async def read_after(
    redis: Redis, after: Mapping[str, str], count: int, block_ms: int | None
) -> dict[str, list[Entry]]:
    """Up to `count` entries of each stream that come after the given ids; waits `block_ms` for the first one."""
    waits = () if block_ms is None else ("BLOCK", block_ms)
    found: dict[str, list[Entry]] = await redis.execute_command(*xread(after, count, *waits))
    return found


def xread(after: Mapping[str, str], count: int, *options: str | int) -> tuple[str | int, ...]:
    """The command by which that is read."""
    return ("XREAD", "COUNT", count, *options, "STREAMS", *after, *after.values())


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
    """A reply to XREAD or XREADGROUP: a map under RESP3, else pairs. A trimmed entry of one's own has no fields."""
    pairs = reply.items() if isinstance(reply, dict) else reply or ()
    return {name.decode(): [(entry_id, _fields(words)) for entry_id, words in page] for name, page in pairs}


def _fields(words: list[bytes] | None) -> dict[bytes, bytes]:
    return dict(zip(words[::2], words[1::2], strict=True)) if words else {}
