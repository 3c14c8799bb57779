"""What the chain of events costs the ledger: the same commits into books with it and without it, taking turns."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services.ledger import books, migrate, months
from services.ledger.intake import Record, read_event
from shared.partitions import Partition
from skeldir.embedded import EmbeddedPostgres
from tests.bench.figures import Figure, quantile
from tests.bench.recorded import START_MS, Traffic, history

BATCH, ROUNDS, BATCHES = 500, 24, 4
_COLUMNS = ", ".join((*books._ABOUT, "body"))
_PLAIN = (
    f"INSERT INTO events ({_COLUMNS}) SELECT * FROM ROWS FROM (json_to_recordset($1::json) AS "
    f"({', '.join(f'{name} {kind}' for name, kind in books._ABOUT.items())}), unnest($2::text[])) AS new ({_COLUMNS}) "
    "ON CONFLICT (id, time) DO NOTHING RETURNING id"
)


async def unchained(connection: Any, records: list[Record]) -> list[Record]:
    """As the ledger appended before it had a chain."""
    unique: dict[UUID, Record] = {record.id: record for record in records}
    about = [{name: getattr(record, name) for name in books._ABOUT} for record in unique.values()]
    bodies = [record.body for record in unique.values()]
    new = {row["id"] for row in await connection.fetch(_PLAIN, orjson.dumps(about).decode(), bodies)}
    return [record for record in unique.values() if record.id in new]


def batches() -> Iterator[list[Record]]:
    """Events of one partition each, as its writer takes them."""
    waiting: dict[int, list[Record]] = defaultdict(list)
    for number, (partition, stream, event) in enumerate(history(Traffic(10**9))):
        entry_id = f"{round(event.time.timestamp() * 1000)}-{number}".encode()
        found = read_event(partition, getattr(Partition(partition), stream), (entry_id, {b"data": event.to_json()}))
        assert isinstance(found, Record)
        waiting[partition].append(found)
        if len(waiting[partition]) == BATCH:
            yield waiting.pop(partition)


async def measure() -> list[Figure]:
    """Events a second of both, in turns of some batches."""
    chained = books._append
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            url = server.url("skeldir_ledger")
            with_chain = url
            migrate.upgrade(server.url("skeldir_owner"))
            admin: Any = await asyncpg.connect(server.url("postgres"))
            await months.make(admin, [datetime.fromtimestamp(START_MS / 1000, UTC).date()])
            name = url.rpartition("/")[2]
            await admin.execute(f'CREATE DATABASE without_chain TEMPLATE "{name}"')
            await admin.close()
            ways = {"with": (with_chain, chained), "without": (f"{url.rpartition('/')[0]}/without_chain", unchained)}
            took: dict[str, list[float]] = {way: [] for way in ways}
            source = batches()
            connections = {way: await asyncpg.connect(database) for way, (database, _) in ways.items()}
            at: dict[str, str] = {}
            for turn in range(ROUNDS):
                page = [next(source) for _ in range(BATCHES)]
                for way in sorted(ways, reverse=turn % 2 == 0):
                    books._append = ways[way][1]  # type: ignore[assignment]
                    began = time.perf_counter()
                    for records in page:
                        await commit(connections[way], records, at, way)
                    took[way].append(BATCH * BATCHES / (time.perf_counter() - began))
            for connection in connections.values():
                await connection.close()
        finally:
            books._append = chained
            server.stop()
    middle = {way: quantile(rates, 0.5) for way, rates in took.items()}
    ratios = [a / b for a, b in zip(took["with"], took["without"], strict=True)]
    return [
        Figure(
            "ledger writes without the chain", f"{middle['without']:,.0f} events a second, median of {ROUNDS} turns"
        ),
        Figure("ledger writes with the chain", f"{middle['with']:,.0f} a second; {quantile(ratios, 0.5):.2f} of it"),
    ]


async def commit(connection: Any, records: list[Record], at: dict[str, str], way: str) -> None:
    """The records, as their partition's writer commits them; `at`: up to where each way is."""
    stream = f"{way} {records[0].partition}"
    before, after = at.get(stream, "0-0"), records[-1].entry_id
    await books.commit(connection, {stream: before}, {stream: after}, records)
    at[stream] = after


if __name__ == "__main__":
    for figure in asyncio.run(measure()):
        print(f"{figure.what}: {figure.value}")
