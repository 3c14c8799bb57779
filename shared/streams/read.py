"""Plain reading of streams by position, without a consumer group: the reader keeps its own place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

# So long does a reader wait for what comes next; then it looks around, and waits again.
BLOCK_MS = 1000

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


def entries_by_stream(reply: Any) -> dict[str, list[Entry]]:
    """A reply to XREAD or XREADGROUP: a map under RESP3, else pairs. A trimmed entry of one's own has no fields."""
    pairs = reply.items() if isinstance(reply, dict) else reply or ()
    return {name.decode(): [(entry_id, _fields(words)) for entry_id, words in page] for name, page in pairs}


def _fields(words: list[bytes] | None) -> dict[bytes, bytes]:
    return dict(zip(words[::2], words[1::2], strict=True)) if words else {}
