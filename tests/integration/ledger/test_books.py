"""The books on a real PostgreSQL: the fold is the same as in memory, and the same again after a rebuild."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest

from services.ledger import beside, books, event_pages, same_rows
from services.ledger import rebuild as rebuilding
from services.ledger.books import Overtaken
from services.ledger.event_pages import Share, spans
from services.ledger.intake import Record, read_event
from services.ledger.projections import TABLES
from services.ledger.projections.rows import Kind, Tables, fold
from services.ledger.rebuild import rebuild
from services.ledger.rollups import differences as rollup_differences
from services.ledger.same_rows import NO_ROW, differences
from services.ledger.verify import CHECKS, verify
from shared.money import to_cents
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, Bench, eventually, own_database, snapshot
from tests.unit.ledger.history import CENT, HOUR_MS, NAMES, Op, patches


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """A database of these tests' own, whose books are looked through as a whole: what others have left in theirs would
    have to be sound, and takes its time."""
    with own_database(postgres, "books") as url:
        yield url


def any_ops(seed: int) -> list[Op]:
    """A history of this seed."""
    chance = random.Random(seed)
    return [(chance.choice(NAMES), chance.randrange(10), chance.randrange(21)) for _ in range(30)]


def any_batches(records: list[Record], seed: int) -> list[list[Record]]:
    """The records in any order, a third of them twice, cut into batches anywhere."""
    chance = random.Random(seed)
    stream = records + [one for one in records if chance.random() < 0.3]
    chance.shuffle(stream)
    batches: list[list[Record]] = [[]]
    for record in stream:
        if chance.random() < 0.2:
            batches.append([])
        batches[-1].append(record)
    return batches


async def taken(connection: Any, batches: list[list[Record]], tenant: UUID) -> dict[str, list[Any]]:
    """The tenant's rows after these batches; nothing of it stays."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        for batch in batches:
            await books.commit(connection, {}, {}, batch)
        return await snapshot(connection, tenant)
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("seed", range(12))
async def test_any_interleaving_gives_the_same_rows(seed: int, bench: Bench, as_ledger: Any) -> None:
    history = bench.history(any_ops(seed))
    records = history.records() + history.control_records()
    one = await taken(as_ledger, [records], bench.tenant)
    assert await taken(as_ledger, any_batches(records, seed), bench.tenant) == one
    assert await taken(as_ledger, [[record] for record in records], bench.tenant) == one


async def test_the_tables_are_what_the_pure_fold_says(bench: Bench, as_ledger: Any) -> None:
    history = bench.history(FULL)
    records = history.records() + history.control_records()
    rows = await taken(as_ledger, [records[: len(records) // 2], records[len(records) // 2 :]], bench.tenant)
    folded: Tables = fold(patches(records, set()))
    for table in TABLES:
        expected = folded.get(table.name, {})
        stored = {tuple(row[name] for name in table.key): row for row in rows[table.name]}
        assert stored.keys() == expected.keys(), table.name
        for key, row in expected.items():
            for name, kind in table.columns.items():
                assert stored[key][name] == _as_stored(kind, row.get(name), table.defaults.get(name)), name


def _as_stored(kind: Kind, value: Any, default: str | None) -> Any:
    if value is None:
        return (
            None
            if default is None
            else {"'pending'": "pending", "'reserved'": "reserved", "false": False}.get(default, 0)
        )
    if kind is Kind.MONEY:
        return to_cents(value)
    if kind is Kind.JSON:
        return _Json(value)
    if kind is Kind.BREAKDOWN:
        parts = {model: {"calls": calls, "cost_cents": float(to_cents(cost))} for model, (calls, cost) in value.items()}
        return _Json(json.dumps(parts))
    return value


class _Json:
    """Equal to any text of the same JSON document."""

    def __init__(self, text: str) -> None:
        self.value = json.loads(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(json.loads(other) == self.value)

    __hash__ = None  # type: ignore[assignment]


async def test_a_rebuild_gives_the_same_rows(bench: Bench, as_ledger: Any, database: Callable[[str], str]) -> None:
    history = bench.history(FULL)
    for batch in any_batches(history.records() + history.control_records(), 1):
        await books.commit(as_ledger, {}, {}, batch)
    before = await snapshot(as_ledger, bench.tenant)
    assert {name for name, rows in before.items() if not rows} == {"api_keys", "task_bounds"}
    await as_ledger.execute("UPDATE llm_monthly_costs SET total_cost_cents = 7 WHERE tenant_id = $1", bench.tenant)
    await as_ledger.execute("DELETE FROM llm_api_calls WHERE tenant_id = $1", bench.tenant)
    report = await rebuild(database("skeldir_owner"))
    assert report.events >= len(history.records())
    assert report.changed["llm_api_calls"] >= len(before["llm_api_calls"]) and report.changed["llm_monthly_costs"]
    assert await snapshot(as_ledger, bench.tenant) == before
    assert not any((await rebuild(database("skeldir_owner"))).changed.values()), "the second finds nothing to do"


async def test_a_rebuild_has_what_comes_meanwhile_and_waits_for_who_is_writing(
    bench: Bench, as_ledger: Any, database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = bench.history(FULL).records()
    early, meanwhile, unfinished = records[:20], records[20:40], records[40:]
    await books.commit(as_ledger, {}, {}, early)
    follow, writing = rebuilding._Rebuild._follow, as_ledger.transaction()

    async def and_then(self: Any) -> None:
        await follow(self)
        await books.commit(as_ledger, {}, {}, meanwhile)
        await writing.start()
        await books.commit(as_ledger, {}, {}, unfinished)

    monkeypatch.setattr(rebuilding._Rebuild, "_follow", and_then)
    work = asyncio.create_task(rebuild(database("skeldir_owner")))
    look = await asyncpg.connect(database("postgres"))

    async def waits() -> Any:
        assert not work.done(), await work
        return await look.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'")

    await eventually(waits, "the rebuild waits for the writer")
    await look.close()
    await writing.commit()
    await work
    async with as_ledger.transaction():
        assert await differences(as_ledger) == []
    assert await rollup_differences(as_ledger) == []
    assert len((await snapshot(as_ledger, bench.tenant))["llm_api_calls"]) == len({one.subject for one in records})


_STRAY = """
INSERT INTO llm_api_calls (
  id, tenant_id, user_id, endpoint, request_id, task_type, provider, model, created_at, updated_at)
SELECT
  gen_random_uuid(), tenant_id, user_id, endpoint, 'of no event', task_type, provider, model, created_at, updated_at
FROM llm_api_calls WHERE tenant_id = $1 LIMIT 1
"""


async def test_a_wrong_row_is_replaced_by_what_it_is_at_the_end(
    bench: Bench, as_ledger: Any, database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found at one moment; until it is replaced its task goes on, and so do others."""
    records = bench.history(FULL).records()
    early, coming = records[:30], [records[30:50], records[50:]]
    await books.commit(as_ledger, {}, {}, early)
    await as_ledger.execute("UPDATE llm_api_calls SET request_id = id::text WHERE tenant_id = $1", bench.tenant)
    await as_ledger.execute("DELETE FROM llm_monthly_costs WHERE tenant_id = $1", bench.tenant)
    await as_ledger.execute(_STRAY, bench.tenant)
    compare, replace = rebuilding._Rebuild._compare, rebuilding._Rebuild._replace

    async def while_others_write(self: Any) -> dict[str, int]:
        wrong = await compare(self)
        await books.commit(as_ledger, {}, {}, coming.pop(0))
        return wrong

    async def until_it_waits(self: Any, *how: Any) -> dict[str, int]:
        await books.commit(as_ledger, {}, {}, coming.pop(0))
        return await replace(self, *how)

    monkeypatch.setattr(rebuilding._Rebuild, "_compare", while_others_write)
    monkeypatch.setattr(rebuilding._Rebuild, "_replace", until_it_waits)
    report = await rebuild(database("skeldir_owner"))
    assert report.changed["llm_api_calls"] == len({one.subject for one in early}) + 1
    async with as_ledger.transaction():
        assert await differences(as_ledger) == []
    assert await rollup_differences(as_ledger) == []


async def test_nobody_waits_for_a_rebuild_that_finds_nothing_wrong(
    bench: Bench, as_ledger: Any, database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = bench.history(FULL).records()
    await books.commit(as_ledger, {}, {}, records[:20])
    compare, written = beside.compare, []

    async def while_others_write(connection: Any) -> dict[str, int]:
        written.append(await books.commit(as_ledger, {}, {}, records[20:]))
        return await compare(connection)

    async def never(self: Any, *_: Any) -> dict[str, int]:
        raise AssertionError("there is nothing to replace")

    monkeypatch.setattr(beside, "compare", while_others_write)
    monkeypatch.setattr(rebuilding._Rebuild, "_replace", never)
    assert not any((await rebuild(database("skeldir_owner"))).changed.values())
    assert written == [len(records) - 20]


async def test_processes_fold_spans_side_by_side(
    bench: Bench, as_ledger: Any, as_superuser: Any, database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's events are in several spans, and most rows are wrong: summed again without the triggers."""
    monkeypatch.setattr(rebuilding, "MANY", 0)
    await books.commit(as_ledger, {}, {}, bench.history(FULL).records())
    before, told = await snapshot(as_ledger, bench.tenant), []
    for table in (one for one in TABLES if one.latest):
        await as_ledger.execute(f"UPDATE {table.name} SET {next(iter(table.latest))} = now()")
    await as_ledger.execute("UPDATE llm_api_calls SET latency_ms = latency_ms + 7")
    last = await as_superuser.fetchval("SELECT last_value FROM events_seq_seq")
    monkeypatch.setattr(rebuilding, "spans", lambda after, upto, archive: spans(after, upto, last // 3, archive))
    await rebuild(database("skeldir_owner"), lambda done, total: told.append((done, total)))
    assert (last, last) in told and len(told) >= 3
    assert await snapshot(as_ledger, bench.tenant) == before
    assert await rollup_differences(as_ledger) == []
    on = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'llm_api_calls'::regclass AND tgenabled <> 'O'"
    assert await as_ledger.fetchval(on) == 0, "the triggers are back"


async def test_verify_finds_nothing_in_sound_books_and_each_thing_that_is_wrong(
    bench: Bench, as_ledger: Any, database: Callable[[str], str]
) -> None:
    history = bench.history(FULL)
    records = history.records()
    await books.commit(as_ledger, {}, {}, records)
    url, subject = database("skeldir_ledger"), f"{bench.tenant} {bench.users[0]}"
    assert (await verify(url)).findings == []
    assert (await verify(url)).sound
    for column, checks in (
        ("reserved_cents", {"reserved_is_held"}),
        ("spent_cents", {"spent_is_settled", "cost_is_spent"}),
    ):
        change = f"UPDATE llm_monthly_budget_state SET {column} = {column} + $2 WHERE tenant_id = $1"
        await as_ledger.execute(change, bench.tenant, Decimal("0.5"))
        report = await verify(url)
        found = {one.check for one in report.findings if str(bench.tenant) in one.subject}
        assert found == {*checks, "balances_are_the_fold"}, (report.findings, subject)
        await as_ledger.execute(change, bench.tenant, Decimal("-0.5"))
    assert (await verify(url)).sound


CHANGES = {
    "llm_api_calls": "output_text = 'other'",
    "llm_monthly_costs": "model_breakdown = '{}'",
    "llm_monthly_budget_state": "cap_cents = 1",
    "llm_hourly_shutoff_state": "total_calls = 77",
    "tenant_budget_state": "total_calls = 77",
    "llm_breaker_state": "reason = 'other'",
    "llm_budget_reservations": "settled_cents = 77",
    "investigations": "query = 'other'",
    "budget_optimization_jobs": "cost_cents = 77",
    "kill_switches": "reason = 'other'",
    "tenant_limits": "max_in_flight = 77",
    "tenant_quotas": "most = 77",
    "downgrades": "from_percent = 77",
    "quota_use": "reserved = 77",
}


async def test_verify_finds_one_changed_value_in_any_table(
    bench: Bench, as_superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rows come to rest between two of their events, which are in any order."""
    monkeypatch.setattr(event_pages, "PAGE", 10)
    monkeypatch.setattr(same_rows, "TURN", 1)
    history = bench.history(FULL)
    for batch in any_batches(history.records() + history.control_records(), 2):
        await books.commit(as_superuser, {}, {}, batch)
    async with as_superuser.transaction():
        sound = set(await differences(as_superuser))
    assert not [one for one in sound if str(bench.tenant) in one[0]]

    async def found_after(change: str) -> dict[str, str]:
        transaction = as_superuser.transaction()
        await transaction.start()
        try:
            await as_superuser.execute(change, bench.tenant)
            return dict(set(await differences(as_superuser)) - sound)
        finally:
            await transaction.rollback()

    for table, change in CHANGES.items():
        column = change.partition(" ")[0]
        found = await found_after(f"UPDATE {table} SET {change} WHERE tenant_id = $1")
        assert found and set(found.values()) == {column}, (table, found)
        assert all(subject.startswith(f"{table} ") for subject in found)
    found = await found_after("UPDATE investigations SET id = gen_random_uuid() WHERE tenant_id = $1")
    assert NO_ROW in found.values()
    assert "rows, of which" in found["investigations"]


async def test_each_row_is_in_one_share(bench: Bench, as_superuser: Any) -> None:
    other = replace(bench, tenant=uuid4())
    for one in (bench, other):
        history = one.history(FULL)
        await books.commit(as_superuser, {}, {}, history.records() + history.control_records())
    transaction = as_superuser.transaction()
    await transaction.start()
    try:
        await as_superuser.execute("UPDATE kill_switches SET reason = 'other'")
        await as_superuser.execute("UPDATE llm_hourly_shutoff_state SET manual_actor = 'other' WHERE manual_engaged")
        await as_superuser.execute("DELETE FROM llm_api_calls WHERE tenant_id = $1", bench.tenant)
        whole = await differences(as_superuser)
        parts = [await differences(as_superuser, Share(number, 3)) for number in range(3)]
        assert sorted(one for part in parts for one in part) == sorted(whole)
    finally:
        await transaction.rollback()


async def test_reserved_is_the_sum_of_reservations_of_user_and_tenant_by_hour_and_month(
    bench: Bench, as_ledger: Any, database: Callable[[str], str]
) -> None:
    """Across the turn of hours and of the month: live, held, settled late, and live again."""
    history = bench.history([])
    owner, scope = history.owners[0], {"tenant_id": str(bench.tenant)}
    history.order(type="limits.set", scope=scope, hourly_cents=500, monthly_cents=500)
    held, late = (history.allow(owner) for _ in range(2))
    history.fail(held, "uncertain")
    history.now_ms += HOUR_MS
    history.succeed(late, CENT // 2)
    history.allow(owner)
    history.now_ms += 31 * 24 * HOUR_MS
    history.succeed(history.allow(owner), CENT // 4)
    history.allow(owner)
    await books.commit(as_ledger, {}, {}, history.records())
    url = database("skeldir_ledger")
    assert (await verify(url)).findings == []
    sums = [check for check in CHECKS if check.name in ("reserved_is_held", "spent_is_settled")]
    windows = {
        "llm_monthly_budget_state": ("spent_cents", "month", 2),
        "llm_hourly_shutoff_state": ("total_cost_cents", "hour_start", 3),
        "tenant_budget_state": ("spent_cents", "(budget_window, window_start)", 5),
    }
    for table, (spent, window, rows) in windows.items():
        count = f"SELECT count(*) FROM {table} WHERE tenant_id = $1"
        assert await as_ledger.fetchval(count, bench.tenant) == rows
        starts = await as_ledger.fetch(f"SELECT {window}::text FROM {table} WHERE tenant_id = $1", bench.tenant)
        for start, column in ((row[0], column) for row in starts for column in ("reserved_cents", spent)):
            change = f"UPDATE {table} SET {column} = {column} + $3 WHERE tenant_id = $1 AND {window}::text = $2"
            await as_ledger.execute(change, bench.tenant, start, Decimal("0.5"))
            found = [one.check for one in (await verify(url, sums)).findings if str(bench.tenant) in one.subject]
            wanted = "reserved_is_held" if column == "reserved_cents" else "spent_is_settled"
            assert found == [wanted], (table, start, column)
            await as_ledger.execute(change, bench.tenant, start, Decimal("-0.5"))
    assert (await verify(url)).sound


async def test_verify_finds_a_second_end_and_an_attempt_without_an_allow(
    bench: Bench, as_ledger: Any, database: Callable[[str], str], as_superuser: Any
) -> None:
    history = bench.history([("submit", 0, 2), ("succeed", 0, 1)])
    partition, url = bench.partition, database("skeldir_ledger")
    history.partition = partition
    decision = history.log[0]
    for stream, entry_id, event in list(history.entries):
        if event.type == "task.succeeded":
            twice = event.model_copy(update={"id": bench.tenant})
            history.entries.append((stream, entry_id, twice))
    stage = {"tasks": partition.tasks, "decisions": partition.decisions, "outcomes": partition.outcomes}
    records = [
        read_event(partition.number, stage[stream.rpartition(":")[2]], (entry_id.encode(), {b"data": event.to_json()}))
        for stream, entry_id, event in history.entries
        if event.id != decision.id
    ]
    start = dict.fromkeys(stage.values(), "0-0")
    await books.commit(as_ledger, start, dict.fromkeys(stage.values(), f"{history.now_ms}-9"), records)  # type: ignore[arg-type]
    try:
        report = await verify(url)
        found = {one.check for one in report.findings}
        assert {"one_end", "allowed_before_attempt"} <= found
    finally:
        # These books are wrong for ever; other tests verify theirs in the same database.
        await as_superuser.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        for name in ("events", *(table.name for table in TABLES)):
            await as_superuser.execute(f"DELETE FROM {name} WHERE tenant_id = $1", bench.tenant)
        await as_superuser.execute("ALTER TABLE events ENABLE TRIGGER append_only")


async def test_a_checkpoint_that_moved_stops_the_commit(bench: Bench, as_ledger: Any) -> None:
    """Two workers that both believe in themselves: the second writes nothing."""
    stream = bench.partition.tasks
    records = bench.history([("submit", 0, 2)]).records()
    assert await books.commit(as_ledger, {stream: "0-0"}, {stream: "5-0"}, records) == len(records)
    more = bench.history([("submit", 0, 2), ("submit", 0, 1)]).records()
    with pytest.raises(Overtaken):
        await books.commit(as_ledger, {stream: "0-0"}, {stream: "9-0"}, more)
    assert await as_ledger.fetchval("SELECT count(*) FROM events WHERE tenant_id = $1", bench.tenant) == len(records)
    assert await books.positions(as_ledger, [stream]) == {stream: "5-0"}


def test_the_owner_may_rebuild_and_a_reader_may_not(database: Callable[[str], str]) -> None:
    with psycopg.connect(database("app_user")) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SET ROLE skeldir_ledger")
