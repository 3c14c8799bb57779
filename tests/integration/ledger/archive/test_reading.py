"""Who reads all events reads the archive's with them: the answers are those of before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.ledger import event_pages, sessions
from services.ledger import rebuild as rebuilding
from services.ledger.archive import parquet, record
from services.ledger.archive.parquet import ParquetFile, Wanted, Writer
from services.ledger.archive.record import Archive, ArchiveProblem
from services.ledger.event_pages import spans
from services.ledger.history.reading import Bounds, verify_history
from services.ledger.projections import TABLES
from services.ledger.rebuild import rebuild
from shared.control_state import order_of
from shared.events.envelope import at
from skeldir.past import state_at
from skeldir.replay.reading import END_OF_TIME_MS, Question, _replay
from skeldir.replay.recording import DECIDED
from skeldir.replay.scenario import Scenario
from tests.integration.ledger.archive.conftest import KEY, MAY, Books, changed
from tests.integration.ledger.conftest import FULL
from tests.unit.policy.world import CONFIG

END = at(END_OF_TIME_MS)


async def tables(kept: Books) -> dict[str, list[Any]]:
    """Every row of every projection."""
    return {
        table.name: sorted(map(dict, await kept.ledger.fetch(f"SELECT * FROM {table.name}")), key=str)
        for table in TABLES
    }


async def test_a_rebuild_folds_the_archive_too(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """In spans that begin and end anywhere in a file; a task's events are in several."""
    before = await tables(kept)
    await kept.archive(MAY)
    monkeypatch.setattr(rebuilding, "spans", lambda after, upto, archive: spans(after, upto, 7, archive))
    monkeypatch.setattr(rebuilding, "shared", one_by_one)
    for table in (one for one in TABLES if one.latest):
        await kept.ledger.execute(f"UPDATE {table.name} SET {next(iter(table.latest))} = now()")
    await kept.ledger.execute("DELETE FROM llm_monthly_costs")
    report = await rebuild(kept.url("skeldir_owner"), archive=kept.folder)
    assert await tables(kept) == before
    assert report.changed["llm_monthly_costs"] == len(before["llm_monthly_costs"])
    assert report.events == len(kept.archived()) + len(await kept.events()) + len(await kept.events(orders=True))


async def one_by_one(work: Any, pieces: Any, *_: Any) -> list[Any]:
    return [await work(piece, lambda _: None) for piece in pieces]


async def test_the_history_is_that_of_before(kept: Books) -> None:
    bounds = Bounds(pending_ms=10**12)
    before = await verify_history(kept.url("skeldir_owner"), bounds)
    await kept.archive(MAY)
    after = await verify_history(kept.url("skeldir_owner"), bounds, archive=kept.folder)
    assert asdict(replace(after, seconds=0)) == asdict(replace(before, seconds=0))
    assert after.sound and after.partitions == 2


async def read(kept: Books, archive: Archive) -> tuple[list[Any], list[Any]]:
    """All events in the order of the log, and decisions with what they follow from."""
    async with sessions.snapshot(kept.url("skeldir_owner"), timeout_s=10) as connection:
        in_order = [dict(row) async for page in event_pages.in_order(connection, [0, 1], archive) for row in page]
        streams = {number: f"{{skeldir:{number}}}:decisions" for number in (0, 1)}
        wanted = dict.fromkeys(DECIDED, (True, True))
        pages = event_pages.with_causes(connection, streams, END, wanted, archive)
        caused = [one async for page in pages for one in page]
    return in_order, caused


async def found(kept: Books) -> Archive:
    async with sessions.snapshot(kept.url("skeldir_owner"), timeout_s=10) as connection:
        return await record.find(connection, kept.folder)


async def test_the_order_of_the_log_is_that_of_before(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not that of a file: groups of rows are read here and there."""
    monkeypatch.setattr(parquet, "GROUP", 3)
    monkeypatch.setattr(parquet, "KEPT_GROUPS", 2)
    monkeypatch.setattr(event_pages, "PAGE", 10)
    for hour in (2, 1):  # taken in later, and of before
        await kept.take_in(datetime(2025, 4, 20, hour, tzinfo=UTC), FULL, by_stream=True)
    before = await read(kept, record.NOTHING)
    await kept.archive(MAY)
    after = await read(kept, await found(kept))
    assert after == before
    assert all(one.cause is not None for one in after[1]) and after[1]


async def test_files_of_the_same_days_are_read_as_one(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came late lies in a file of its own; and a chain's files are opened as the log comes to them."""
    monkeypatch.setattr(event_pages, "PAGE", 10)
    for hour in (3, 1, 2):
        await kept.take_in(datetime(2025, 4, 20, hour, tzinfo=UTC), FULL)
        await kept.archive(MAY)
    every = [*kept.archived(), *await kept.events()]
    in_order, _ = await read(kept, await found(kept))
    places = [(row["partition"], order_of(row["entry_id"])) for row in in_order]
    assert places == sorted((row["partition"], order_of(row["entry_id"])) for row in every)


async def test_a_cause_is_found_wherever_it_is(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another month's file than those around its effect, and in the table where the effect is in a file."""
    before = await read(kept, record.NOTHING)
    await kept.archive(MAY)
    archive = await found(kept)
    monkeypatch.setattr(event_pages, "_NEARNESS", timedelta(0))
    monkeypatch.setattr(event_pages, "PAGE", 2)  # so that a cause is often on a page before
    of_others = replace(archive, files=tuple(replace(one, month=one.month.replace(year=2024)) for one in archive.files))
    assert (await read(kept, of_others))[1] == before[1]


@pytest.mark.parametrize("until", [END, datetime(2025, 4, 5, tzinfo=UTC)])
async def test_a_replay_comes_to_the_same(kept: Books, until: datetime) -> None:
    url = kept.url("skeldir_owner")
    scenario, until_ms = Scenario(replace(CONFIG, monthly_cap=1)), int(until.timestamp() * 1000)
    question = Question(scenario, Scenario(CONFIG), until_ms=until_ms)
    before = await _replay(url, question, None)
    await kept.archive(MAY)
    with pytest.raises(ArchiveProblem, match="in an archive"):
        await _replay(url, question, None)
    after = await _replay(url, replace(question, archive=kept.folder), None)
    assert after.tally == before.tally and after.tally.decisions > 5 and after.partitions == before.partitions


async def test_the_state_of_then_is_that_of_before(kept: Books) -> None:
    for _ in range(2):
        await kept.take_in(datetime(2025, 3, 20, tzinfo=UTC), BROKEN)
    moments = [int(datetime(2025, 3, day, tzinfo=UTC).timestamp() * 1000) for day in (1, 20, 21, 31)]
    moments += [END_OF_TIME_MS - 1]
    url = kept.url("skeldir_owner")
    before = [await state_at(url, moment) for moment in moments]
    assert len(before[-1].breakers) > len(before[0].breakers) == 0
    owner = next(iter(before[-1].breakers))
    await kept.archive(MAY)
    with pytest.raises(ArchiveProblem, match="in an archive"):
        await state_at(url, moments[0])
    assert [await state_at(url, moment, archive=kept.folder) for moment in moments] == before
    of_tenant = await state_at(url, moments[-1], owner.tenant_id, archive=kept.folder)
    assert set(of_tenant.breakers) == {one for one in before[-1].breakers if one.tenant_id == owner.tenant_id}


BROKEN = (("submit", 0, 3), ("fail", 0, 0), ("submit", 0, 3), ("fail", 0, 0), ("submit", 0, 3), ("fail", 0, 0))


@pytest.mark.parametrize("work", [rebuild, lambda url, archive: state_at(url, 0, archive=archive)])
async def test_on_files_that_were_changed_nothing_is_built(kept: Books, work: Callable[..., Any]) -> None:
    await kept.archive(MAY, key=KEY)
    before = await tables(kept)
    row = await changed(kept, lambda row: row["type"] == "task.allowed", body="{}")
    with pytest.raises(ArchiveProblem, match=f"events-2025-0.-{row['partition']}-.* was changed"):
        await work(kept.url("skeldir_owner"), archive=kept.folder)
    assert await tables(kept) == before
    min(kept.folder.glob("*.parquet")).unlink()
    with pytest.raises(ArchiveProblem, match="is missing"):
        await work(kept.url("skeldir_owner"), archive=kept.folder)


async def test_columns_and_rows_are_read_as_they_are_wanted(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP", 4)
    path, rows = kept.folder.parent / "file", await kept.events()
    writer = Writer(path)
    writer.add(rows)
    writer.close()
    file = ParquetFile(path)

    def got(**wanted: Any) -> list[Any]:
        return [row for page in file.pages(Wanted(**wanted)) for row in page]

    assert got() == [{name: row[name] for name in parquet.COLUMNS} for row in rows]
    tenant: UUID = rows[0]["tenant_id"]
    assert got(columns=("body",), tenants=frozenset([tenant])) == [
        {"body": row["body"]} for row in rows if row["tenant_id"] == tenant
    ]
    middle = rows[len(rows) // 2]["seq"]
    assert [row["seq"] for row in got(after=middle - 5, upto=middle)] == [
        row["seq"] for row in rows if middle - 5 < row["seq"] <= middle
    ]
    types = frozenset(["task.allowed", "task.blocked"])
    assert [row["id"] for row in got(types=types, after=middle)] == [
        row["id"] for row in rows if row["type"] in types and row["seq"] > middle
    ]
    assert got(types=frozenset(["none"])) == []
    wanted = [rows[1]["id"], rows[-1]["id"], UUID(int=0)]
    assert {row["id"] for row in file.by_ids(wanted, ("id",))} == set(wanted[:2])


async def test_what_is_no_archive_of_events_is_said_so(kept: Books) -> None:
    path = kept.folder.parent / "events-x.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(ArchiveProblem, match=r"events-x.parquet of the archive cannot be read"):
        ParquetFile(path)


async def test_without_its_library_one_line_says_what_to_install(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArchiveProblem, match=r"pip install 'skeldir\[archive\]'"):
        await kept.archive(MAY)
