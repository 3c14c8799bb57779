"""Events by month: a table is there before it is needed, whoever comes first, and nobody looks through the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from services.ledger import books, sessions
from services.ledger.chain import heads
from services.ledger.intake import Record
from services.ledger.keys import View
from services.ledger.lists import EVENTS, question
from services.ledger.months import MonthsAhead, months_of
from services.ledger.sessions import AUDITOR
from services.policy.decide import Owner
from shared.control_state import Key
from tests.integration.ledger.conftest import FULL, Bench, eventually
from tests.unit.ledger.history import START_MS, play

TABLE = "SELECT to_regclass('public.events_' || to_char($1::date, 'YYYY_MM')) IS NOT NULL"


def moved(records: Sequence[Record], first: datetime) -> list[Record]:
    """As if the first of them had happened at that time."""
    return [replace(one, time=first + (one.time - records[0].time)) for one in records]


MONTHS = count()


def of_its_own() -> datetime:
    """The middle of a month that no other test has events of."""
    number = next(MONTHS)
    return datetime(1980 + number // 12, 1 + number % 12, 15, tzinfo=UTC)


async def stored(connection: Any, bench: Bench) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM events WHERE tenant_id = $1", bench.tenant))


async def test_a_month_is_made_by_who_needs_it_with_their_commit(bench: Bench, as_ledger: Any) -> None:
    first = of_its_own()
    records = moved(bench.history(FULL).records(), first)
    transaction = as_ledger.transaction()
    await transaction.start()
    await books.commit(as_ledger, {}, {}, records)
    assert await as_ledger.fetchval(TABLE, first)
    await transaction.rollback()
    assert not await as_ledger.fetchval(TABLE, first)
    assert await books.commit(as_ledger, {}, {}, records) == len(records) == await stored(as_ledger, bench)
    table = await as_ledger.fetchval("SELECT DISTINCT tableoid::regclass::text FROM events WHERE time = $1", first)
    assert table == f"events_{first:%Y_%m}"


async def test_two_who_need_the_same_month_wait_for_each_other(bench: Bench, as_ledger: Any, as_superuser: Any) -> None:
    first = of_its_own()
    mine = moved(bench.history(FULL).records(), first)
    other = replace(bench, tenant=uuid4(), partition=replace(bench.partition, number=bench.partition.number + 1))
    history = other.history(FULL)
    history.partition = other.partition
    theirs = moved(history.records(), first)
    connection: Any = await asyncpg.connect(bench.database_url)
    try:
        async with as_ledger.transaction():
            await books.take_in(as_ledger, mine)
            second = asyncio.create_task(books.commit(connection, {}, {}, theirs))
            waits = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted AND locktype = 'relation'"

            async def waiting() -> bool:
                assert not second.done(), await second
                return bool(await as_superuser.fetchval(waits, connection.get_server_pid()))

            await eventually(waiting, "the second one waits")
        assert await second == len(theirs)
    finally:
        await connection.close()


async def test_this_month_and_the_next_are_there_ahead(bench: Bench, as_superuser: Any) -> None:
    now = await as_superuser.fetchval("SELECT now()")
    ahead = (now.replace(day=1) + timedelta(days=32)).date()
    # Not there where the month has turned since the migrations, which make the one after theirs.
    await as_superuser.execute(f"DROP TABLE IF EXISTS events_{ahead:%Y_%m}")
    async with sessions.pool(bench.database_url, name="months", size=1) as pool:
        work = asyncio.create_task(MonthsAhead(pool).run())

        async def there() -> bool:
            return bool(await as_superuser.fetchval(TABLE, ahead))

        await eventually(there, "the next month")
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    assert await as_superuser.fetchval(TABLE, now.date())


async def test_an_event_of_a_time_that_cannot_be_is_set_aside(bench: Bench, as_ledger: Any) -> None:
    """A clock that lies makes no table of its own, and keeps nothing else out."""
    entries = bench.history([("submit", 0, 2), ("succeed", 0, 1)]).entries
    stream, entry_id, event = entries[0]
    lies = event.model_copy(update={"id": uuid4(), "time": datetime(2200, 1, 1, tzinfo=UTC)})
    await bench.append((stream, entry_id, lies), *entries)
    async with bench.writer() as writer:

        async def rest() -> bool:
            return await stored(as_ledger, bench) == len(entries)

        await eventually(rest, "the others")
        assert writer.problem is None
    skipped = "SELECT reason FROM skipped_entries WHERE stream = $1"
    (row,) = await as_ledger.fetch(skipped, bench.partition.tasks)
    assert "no event is of 2200-01-01" in row["reason"]


@pytest.mark.parametrize("gap", [timedelta(0), timedelta(days=7), timedelta(days=-7)], ids=["now", "later", "before"])
async def test_an_event_that_was_made_anew_at_another_time_is_the_same(
    gap: timedelta, bench: Bench, as_ledger: Any
) -> None:
    """Also across the turn of a month."""
    records = moved(bench.history(FULL).records()[:1], datetime(2025, 3, 1, tzinfo=UTC))
    assert await books.commit(as_ledger, {}, {}, records) == 1
    again = moved(records, records[0].time + gap)
    assert await books.commit(as_ledger, {}, {}, again) == 0
    assert await stored(as_ledger, bench) == 1


async def plan(connection: Any, sql: str, *arguments: Any) -> str:
    """What was really read, of a question with its values."""
    rows = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {sql}", *arguments)
    return "\n".join(row[0] for row in rows if "never executed" not in row[0])


async def test_months_before_are_not_looked_through(bench: Bench, as_ledger: Any) -> None:
    other = tuple(Owner(uuid4(), user) for user in bench.users)
    early = play([("submit", 0, 2)], other, START_MS - 700 * 86_400_000)
    history = bench.history([("submit", 0, 2), ("succeed", 0, 1)])
    records = history.records()
    await books.commit(as_ledger, {}, {}, [*early.records(), *records])
    month = months_of([records[0].time])[0]
    near = {f"events_{at:%Y_%m}" for at in _around(month)}
    ids = {one.id: one.time for one in records}
    times = (min(ids.values()) - heads.SAME_EVENT, max(ids.values()) + heads.SAME_EVENT)
    asked = (bench.partition.number, list(ids), *times, [month])
    async with sessions.reading(as_ledger, None, bench.tenant):
        assert await as_ledger.fetchval("SELECT count(DISTINCT tableoid) FROM events") > 1
        assert _tables(await plan(as_ledger, heads._LOCK.replace("FOR UPDATE", ""), *asked)) <= near
        key = Key("k", bench.tenant, None, "auditor", None, "test", 0)
        view = View(key, AUDITOR, bench.tenant, ())
        timeline, values = question(view, EVENTS, 10, None, {"task_id": records[0].subject})
        seen = _tables(await plan(as_ledger, timeline, *values))
    assert seen and min(seen) >= min(near)


def _around(month: date) -> list[date]:
    days = timedelta(days=32)
    return [(month - timedelta(days=1)).replace(day=1), month, (month + days).replace(day=1)]


def _tables(said: str) -> set[str]:
    return {word for word in said.split() if word.startswith("events_") and word[7:11].isdigit() and len(word) == 14}
