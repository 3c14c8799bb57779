"""Months go into files: nothing is lost, nothing is there twice, and what is still needed stays."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy.exc

from services.ledger import books, migrate
from services.ledger.archive import archiving
from services.ledger.archive.archiving import latest_before
from services.ledger.archive.parquet import ParquetFile
from services.ledger.archive.record import ArchiveProblem
from services.ledger.sessions import Busy, alone, snapshot
from tests.integration.ledger.archive.conftest import (
    APRIL,
    ENDED,
    KEY,
    KEYS,
    MARCH,
    MAY,
    Books,
    tamper,
)
from tests.unit.ledger.history import History


async def test_months_go_into_files_and_nothing_is_lost(kept: Books) -> None:
    before, orders = await kept.events(), await kept.events(orders=True)
    reports = await kept.archive(MAY, key=KEY)
    assert [report.month for report in reports] == [MARCH, APRIL]
    stays, files = await kept.events(), kept.archived()
    assert sorted([*stays, *files], key=lambda row: row["seq"]) == before
    assert await kept.events(orders=True) == orders
    assert {row["time"].month for row in files} == {3, 4}
    recorded = await kept.recorded()
    assert {row["file"] for row in recorded} == {one.file for report in reports for one in report.files}
    assert sum(row["rows"] for row in recorded) == len(files)
    assert {row["key_id"] for row in recorded} == set(KEYS)
    assert {path.name for path in kept.folder.iterdir()} == {row["file"] for row in recorded}


async def test_a_month_is_append_only_again(kept: Books) -> None:
    await kept.archive(APRIL)
    for statement in ("TRUNCATE events_2025_03", "DELETE FROM events_2025_03"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await kept.superuser.execute(statement)


async def test_what_has_not_ended_stays_until_it_has(kept: Books) -> None:
    await kept.archive(APRIL)
    stays = [row for row in await kept.events() if row["time"].month == 3]
    query = "SELECT api_call_id FROM llm_budget_reservations WHERE state IN ('reserved', 'held')"
    waiting = await kept.ledger.fetch(f"{query} UNION SELECT id FROM llm_api_calls WHERE status = 'pending'")
    assert {row["subject"] for row in stays} == {str(row[0]) for row in waiting} and stays
    held = await kept.ledger.fetchval("SELECT id FROM llm_budget_reservations WHERE state = 'held' LIMIT 1")
    assert held in {row["id"] for row in stays}
    assert len({row["type"] for row in stays}) > 2, "with all of their events"
    assert await kept.archive(APRIL) == [], "nothing has ended since"
    await kept.ledger.execute("UPDATE llm_budget_reservations SET state = 'settled' WHERE state = 'held'")
    await kept.ledger.execute("UPDATE llm_api_calls SET status = 'failed' WHERE status = 'pending'")
    await kept.ledger.execute("UPDATE llm_budget_reservations SET state = 'settled' WHERE state = 'reserved'")
    (report,) = await kept.archive(APRIL)
    assert report.events == len(stays)
    assert not [row for row in await kept.events() if row["time"].month == 3]


async def test_late_events_of_a_month_go_into_a_further_file(kept: Books) -> None:
    await kept.archive(APRIL)
    history = await kept.take_in(datetime(2025, 3, 12, tzinfo=UTC), ENDED)
    before = await kept.events()
    (report,) = await kept.archive(APRIL)
    assert (report.month, report.events) == (MARCH, len(history.entries))
    assert len(await kept.events()) == len(before) - report.events
    of_march = [row for row in await kept.recorded() if (row["month"], row["chain"]) == (MARCH, 0)]
    assert len(of_march) == 2 and of_march[0]["last_seq"] < of_march[1]["first_seq"]


@pytest.mark.parametrize("where", ["_record", "_empty"])
async def test_whoever_dies_on_the_way_begins_again(kept: Books, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are there that nobody recorded: the next run writes the same bytes."""
    before = await kept.events()
    real = getattr(archiving._Month, where)

    async def dies(*arguments: Any) -> None:
        await real(*arguments)
        raise OSError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(archiving._Month, where, dies)
        with pytest.raises(OSError, match="the power is gone"):
            await kept.archive(APRIL)
    assert (await kept.events(), await kept.recorded()) == (before, [])
    left = {path.name for path in kept.folder.iterdir()}
    await kept.archive(APRIL)
    assert {path.name for path in kept.folder.iterdir()} == left == {row["file"] for row in await kept.recorded()}
    assert len(await kept.events()) + len(kept.archived()) == len(before)


async def test_a_file_that_was_not_finished_goes(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(*_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(ParquetFile, "pages", torn)
    with pytest.raises(OSError, match="the disk is gone"):
        await kept.archive(APRIL)
    assert not list(kept.folder.iterdir()) and not await kept.recorded()


async def test_a_file_that_does_not_read_as_it_was_written_is_refused(
    kept: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ParquetFile.pages
    monkeypatch.setattr(ParquetFile, "pages", lambda *asked: (page[1:] for page in real(*asked)))
    before = await kept.events()
    with pytest.raises(ArchiveProblem, match="does not read as it was written"):
        await kept.archive(APRIL)
    assert (await kept.events(), await kept.recorded()) == (before, [])


@pytest.mark.parametrize("place", ["first", "inside", "after what stays"])
async def test_what_was_changed_is_not_archived(kept: Books, place: str) -> None:
    """The first of a month follows on a row that is in a file by then."""
    await kept.archive(APRIL)
    rows = [row for row in await kept.events() if row["time"].month == 4 and row["partition"] == 0]
    row = rows[{"first": 0, "inside": 2, "after what stays": 0}[place]]
    if place == "after what stays":
        await tamper(kept, "UPDATE llm_api_calls SET status = 'pending' WHERE id = $1", UUID(row["subject"]))
        row = next(one for one in rows if one["subject"] != row["subject"])
    await tamper(kept, "UPDATE events SET body = body || ' ' WHERE id = $1", row["id"])
    before = await kept.events()
    with pytest.raises(ArchiveProblem, match=f"partition 0 row {row['chain_no']}, .*its hash is not") as refused:
        await kept.archive(MAY)
    assert "skeldir ledger verify" in str(refused.value)
    assert await kept.events() == before


async def test_a_row_whose_predecessor_is_gone_is_not_archived(kept: Books) -> None:
    rows = [row for row in await kept.events() if row["partition"] == 0]
    await tamper(kept, "DELETE FROM events WHERE id = $1", rows[3]["id"])
    with pytest.raises(ArchiveProblem, match=f"row {rows[4]['chain_no']}, .* the row before it is missing"):
        await kept.archive(APRIL)


async def test_the_last_two_months_stay(kept: Books) -> None:
    assert latest_before(datetime(2025, 8, 1, tzinfo=UTC)) == date(2025, 7, 1)
    assert latest_before(datetime(2025, 1, 31, 23, tzinfo=UTC)) == date(2024, 12, 1)
    with pytest.raises(ArchiveProblem, match="at most --before"):
        await kept.archive(date(2199, 1, 1))
    end = int(datetime(2025, 5, 11, tzinfo=UTC).timestamp() * 1000)
    await books.commit(kept.ledger, {"s": "0-0"}, {"s": f"{end}-0"})
    with pytest.raises(ArchiveProblem, match=r"the books end on 2025-05-11: .* at most --before 2025-04"):
        await kept.archive(MAY)
    assert [report.month for report in await kept.archive(APRIL)] == [MARCH]


async def test_files_alone_can_be_written(kept: Books) -> None:
    before = await kept.events()
    (report,) = await kept.archive(APRIL, keep=True)
    assert report.events == len(kept.archived()) > 0
    assert (await kept.events(), await kept.recorded()) == (before, [])


async def test_who_reads_keeps_the_month(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check on a snapshot of before would find it empty. Meanwhile others read and write the months that count."""
    monkeypatch.setattr(archiving, "TRIES", 1)
    monkeypatch.setattr(archiving, "PAUSE_S", 0.0)
    monkeypatch.setattr(archiving, "LOCK_TIMEOUT", "50ms")
    before = await kept.events()
    async with snapshot(kept.url("skeldir_owner"), timeout_s=10):
        with pytest.raises(Busy, match="others read the events of 2025-03"):
            await kept.archive(APRIL)
    assert await kept.events() == before
    async with snapshot(kept.url("skeldir_owner"), timeout_s=10) as connection:
        await connection.execute("RESET ROLE")
        async with alone(connection):
            with pytest.raises(Busy, match="another rebuild or archiving"):
                await kept.archive(APRIL)


async def test_who_has_finished_keeps_nobody_out(kept: Books) -> None:
    """Also while the server has not ended its connection yet."""
    one, other = [await asyncpg.connect(kept.url("skeldir_owner")) for _ in range(2)]
    for fails in (False, True):
        with suppress(OSError):
            async with alone(one):
                with pytest.raises(Busy):
                    async with alone(other):
                        pass
                if fails:
                    raise OSError("the power is gone")
        async with alone(other):
            pass
    assert len(await kept.archive(APRIL)) == 1
    await one.close()
    await other.close()


async def test_what_comes_while_the_files_are_written_stays(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    real, late = archiving._Month.take_out, list[History]()

    async def take_out(*arguments: Any) -> None:
        late.append(await kept.take_in(datetime(2025, 3, 13, tzinfo=UTC), ENDED))
        await real(*arguments)

    before = await kept.events()
    monkeypatch.setattr(archiving._Month, "take_out", take_out)
    await kept.archive(APRIL)
    found = {row["id"] for row in await kept.events()}
    assert {record.id for record in late[0].records()} <= found
    assert len(found) + len(kept.archived()) == len(before) + len(late[0].entries)


async def test_the_release_before_does_not_take_over_what_it_cannot_read(kept: Books) -> None:
    await kept.archive(APRIL)
    with pytest.raises(sqlalchemy.exc.ProgrammingError, match="events are in archive files"):
        await asyncio.to_thread(migrate.downgrade, kept.url("skeldir_owner"), "0015")
    assert await kept.recorded()
