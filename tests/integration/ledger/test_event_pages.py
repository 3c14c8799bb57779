"""Events as those read them who read many: each once, with what they ask for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from services.ledger import books, event_pages
from services.ledger.event_pages import Share, Span, spans
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, Bench
from tests.unit.ledger.history import HOUR_MS

END = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_pages, "PAGE", 7)


async def test_spans_and_shares_have_each_event_once(bench: Bench, as_ledger: Any) -> None:
    records = bench.history(FULL).records()
    await books.commit(as_ledger, {}, {}, records)
    first, last = await as_ledger.fetchrow(
        "SELECT min(seq) - 1, max(seq) FROM events WHERE tenant_id = $1", bench.tenant
    )
    assert spans(3, 20, 7) == [Span(3, 10), Span(10, 17), Span(17, 20)]
    async with as_ledger.transaction():
        read = [
            body
            for span in spans(first, last, 11)
            async for page in event_pages.of_span(as_ledger, span)
            for body in page
            if str(bench.tenant) in body
        ]
        by_share = [
            {body async for _, page in event_pages.of_share(as_ledger, Share(number, 3)) for body in page}
            for number in range(3)
        ]
    assert sorted(read) == sorted(record.body for record in records)
    assert [len(part & set(read)) for part in by_share if part & set(read)] == [len(records)], (
        "a tenant is in one share"
    )


async def test_an_event_has_its_cause_however_old_that_is(bench: Bench, as_ledger: Any) -> None:
    """In the order of the log, which is not that of the table; and only the bodies that are asked for."""
    history = bench.history([])
    for _ in range(5):
        history.succeed(history.allow(history.owners[0]), 0)
        history.now_ms += HOUR_MS
    mine = [replace(record, partition=bench.partition.number) for record in history.records()]
    old = {record.id: record for record in mine if record.type == "task.succeeded"}
    before = [replace(one, time=one.time - timedelta(days=40 * number)) for number, one in enumerate(old.values())]
    await books.commit(as_ledger, {}, {}, [record for record in reversed(mine) if record.id not in old] + before)
    types = ("task.allowed", "reservation.ended")
    streams = {bench.partition.number: mine[0].stream.replace(":tasks", ":decisions")}
    async with as_ledger.transaction():
        read = [
            event
            async for page in event_pages.with_causes(
                as_ledger, streams, END, {kind: (kind == "task.allowed", kind != "task.allowed") for kind in types}
            )
            for event in page
        ]
    assert [event.type for event in read] == list(types) * 5
    by_id = {str(record.id): record for record in mine}
    for event in read:
        if event.type == "task.allowed":
            assert event.cause is None and event.body in {record.body for record in mine}
        else:
            assert event.body is None and event.cause == by_id[str(event.causation_id)].body


async def test_the_log_is_read_partition_by_partition_in_its_order(bench: Bench, as_ledger: Any) -> None:
    history = bench.history(FULL)
    mine = [replace(record, partition=bench.partition.number) for record in history.records()]
    await books.commit(as_ledger, {}, {}, list(reversed(mine)))
    async with as_ledger.transaction():
        read = [row async for page in event_pages.in_order(as_ledger, [bench.partition.number]) for row in page]
    assert len(read) == len(mine)
    places = [tuple(map(int, row["entry_id"].split("-"))) for row in read]
    assert places == sorted(places)


async def test_a_span_is_read_without_the_month_though_short_rows_fill_old_pages(postgres: EmbeddedPostgres) -> None:
    """Rows of two lengths, as events are: later short ones lie in what was left of the pages of earlier long ones."""
    admin: Any = await asyncpg.connect(postgres.url("postgres"))
    try:
        await admin.execute("CREATE TEMP TABLE numbers (seq bigint, body text STORAGE PLAIN)")
        index = await admin.fetchval("SELECT pg_get_indexdef('events_by_seq'::regclass)")
        await admin.execute(index.replace("events_by_seq ON ONLY public.events", "numbers_by_seq ON numbers"))
        fill = "INSERT INTO numbers SELECT n, repeat('x', $3) FROM generate_series($1::int, $2) AS n"
        await admin.execute(fill, 1, 20_000, 1900)
        await admin.execute("VACUUM numbers")
        await admin.execute(fill, 20_001, 24_000, 200)
        await admin.execute("VACUUM (ANALYZE) numbers")
        await admin.execute("SET enable_seqscan = off")  # it is a small table
        pages = await admin.fetchval("SELECT pg_relation_size('numbers') / 8192")
        assert await admin.fetchval("SELECT count(DISTINCT (ctid::text::point)[0]) FROM numbers WHERE seq > 20000") > 20
        query = "EXPLAIN (ANALYZE, FORMAT JSON) SELECT body FROM numbers WHERE seq > 10000 AND seq <= 10500"
        plan = orjson.loads(await admin.fetchval(query))[0]["Plan"]
        assert plan["Actual Rows"] == 500 and plan["Lossy Heap Blocks"] < pages / 10, plan
    finally:
        await admin.close()
