"""The limits that the services are held against: the same bytes through the servers, nothing of Skeldir between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import asyncpg

AT_ONCE, ROWS_AT_ONCE = 500, 2000
_COPY_INTO = "CREATE TABLE IF NOT EXISTS bench_rows AS SELECT * FROM events WITH NO DATA"


def append(log: Any, entries: Sequence[bytes]) -> float:
    """Entries a second: XADD, 500 in a pipeline."""
    stream = f"bench:{uuid4()}"
    began = time.perf_counter()
    _append(log, stream, entries)
    took = time.perf_counter() - began
    log.delete(stream)
    return len(entries) / took


def read_append_acknowledge(log: Any, entries: Sequence[bytes]) -> float:
    """Entries a second, appended before: XREADGROUP of 500, an XADD for each of them and one XACK, in a pipeline."""
    there, here = f"bench:{uuid4()}", f"bench:{uuid4()}"
    _append(log, there, entries)
    log.xgroup_create(there, "bench", "0")
    began, left = time.perf_counter(), len(entries)
    while left > 0:
        ((_, page),) = log.xreadgroup("bench", "one", {there: ">"}, count=AT_ONCE)
        pipeline = log.pipeline(transaction=False)
        for _ in page:
            pipeline.xadd(here, {"type": "answer", "data": entries[0]})
        pipeline.xack(there, "bench", *(entry_id for entry_id, _ in page))
        pipeline.execute()
        left -= len(page)
    took = time.perf_counter() - began
    log.delete(there, here)
    return len(entries) / took


def _append(log: Any, stream: str, entries: Sequence[bytes]) -> None:
    for first in range(0, len(entries), AT_ONCE):
        pipeline = log.pipeline(transaction=False)
        for entry in entries[first : first + AT_ONCE]:
            pipeline.xadd(stream, {"type": "task.submitted", "data": entry})
        pipeline.execute()


def copy(superuser_url: str, events: int) -> float:
    """Rows a second: COPY of rows of `events` into a table of the same columns, without an index, 2,000 at a time."""
    return asyncio.run(_copy(superuser_url, events))


async def _copy(superuser_url: str, events: int) -> float:
    connection: Any = await asyncpg.connect(superuser_url)
    try:
        await connection.execute(_COPY_INTO)
        rows = await connection.fetch(f"SELECT * FROM events LIMIT {int(events)}")
        pages = [[tuple(row) for row in rows[at : at + ROWS_AT_ONCE]] for at in range(0, len(rows), ROWS_AT_ONCE)]
        began = time.perf_counter()
        for page in pages:
            await connection.copy_records_to_table("bench_rows", records=page)
        took = time.perf_counter() - began
        await connection.execute("TRUNCATE bench_rows")
        return len(rows) / took
    finally:
        await connection.close()
