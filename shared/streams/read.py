"""Plain reading of streams by position, without a consumer group: the reader keeps its own place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

Entry = tuple[bytes, dict[bytes, bytes]]


async def read_after(
    redis: Redis, after: Mapping[str, str], count: int, block_ms: int | None
) -> dict[str, list[Entry]]:
    """Up to `count` entries of each stream that come after the given ids; waits `block_ms` for the first one."""
    streams: Any = dict(after)
    reply: Any = await redis.xread(streams, count=count, block=block_ms)
    return entries_by_stream(reply)


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
