"""Months in an archive: nothing is lost, nothing is there twice, and who reads all events reads them there, too."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pyarrow.parquet as pq
import pytest
import sqlalchemy.exc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger import books, migrate
from services.ledger import verify as verify_
from services.ledger.archive import archiving
from services.ledger.archive.archiving import MonthReport, archive, latest_before
from services.ledger.archive.parquet import ParquetFile, Wanted, Writer
from services.ledger.archive.record import ArchiveProblem
from services.ledger.chain import audit, share
from services.ledger.chain.audit import verify_chains
from services.ledger.chain.seal import key_id
from services.ledger.intake import Record
from services.ledger.sessions import Busy, alone, snapshot
from services.ledger.verify import CHECKS, FILES, SAME_ROWS, verify
from services.policy.decide import Owner
from shared.partitions import Partition
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, own_database
from tests.unit.ledger.history import History, Op, play

KEY = Ed25519PrivateKey.generate()
KEYS = {key_id(KEY.public_key()): KEY.public_key()}
ENDED: tuple[Op, ...] = (("submit", 0, 3), ("succeed", 0, 8), ("submit", 1, 2), ("fail", 0, 0), ("order", 0, 5))
MARCH, APRIL, MAY, JUNE = (date(2025, month, 1) for month in (3, 4, 5, 6))


class Books:
    """Books of three months, in two partitions, and a folder for their archive."""

    def __init__(self, url: Callable[[str], str], folder: Path, ledger: Any, superuser: Any) -> None:
        self.url = url
        self.folder = folder
        self.ledger = ledger
        self.superuser = superuser

    async def take_in(self, at: datetime, ops: Sequence[Op], partition: int = 0) -> History:
        """A history from that moment on, of a tenant of its own."""
        tenant = uuid4()
        owners = Owner(tenant, uuid4()), Owner(tenant, uuid4())
        history = play(ops, owners, int(at.timestamp() * 1000))
        history.partition = Partition(partition)
        await self.commit([*history.records(), *history.control_records()])
        return history

    async def commit(self, records: Sequence[Record]) -> None:
        assert await books.commit(self.ledger, {}, {}, records) == len(records)

    async def archive(self, before: date = JUNE, **options: Any) -> list[MonthReport]:
        return await archive(self.url("skeldir_owner"), self.folder, before, **options)

    async def events(self, *, orders: bool = False) -> list[dict[str, Any]]:
        """What is in the database, without the orders."""
        rows = await self.ledger.fetch("SELECT * FROM events WHERE (partition IS NULL) = $1 ORDER BY seq", orders)
        return [dict(row) for row in rows]

    def archived(self) -> list[dict[str, Any]]:
        """What is in the files, as any tool reads them."""
        found = [row for file in self.folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
        return sorted(found, key=lambda row: row["seq"])

    async def recorded(self) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.ledger.fetch("SELECT * FROM event_archives ORDER BY first_seq")
        return rows


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with March, in which a task has not ended and an attempt did nobody knows how; April; May."""

    async def fill(url: Callable[[str], str]) -> None:
        ledger = await asyncpg.connect(url("skeldir_ledger"))
        found = Books(url, Path(), ledger, None)
        await found.take_in(datetime(2025, 3, 10, tzinfo=UTC), FULL)
        await found.take_in(datetime(2025, 3, 31, 23, 59, 59, 998000, tzinfo=UTC), ENDED, 1)
        await found.take_in(datetime(2025, 4, 10, tzinfo=UTC), ENDED)
        await found.take_in(datetime(2025, 5, 10, tzinfo=UTC), ENDED)
        await ledger.close()

    with own_database(postgres, "archives") as url:
        asyncio.run(fill(url))
        yield "archives"


NUMBERS = count()


@pytest.fixture
async def kept(postgres: EmbeddedPostgres, filled: str, tmp_path: Path) -> AsyncIterator[Books]:
    """Those books, for one test."""
    with own_database(postgres, f"archives_{next(NUMBERS)}", like=filled) as url:
        ledger, superuser = await asyncpg.connect(url("skeldir_ledger")), await asyncpg.connect(url("postgres"))
        yield Books(url, tmp_path / "archive", ledger, superuser)
        await ledger.close()
        await superuser.close()


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
    def full(*_: Any) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr(archiving, "_sync", full)
    with pytest.raises(OSError, match="no space"):
        await kept.archive(APRIL)
    assert not list(kept.folder.glob(".*")) and not await kept.recorded()


async def test_a_file_that_does_not_read_as_it_was_written_is_refused(
    kept: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ParquetFile.pages
    monkeypatch.setattr(ParquetFile, "pages", lambda *asked: (page[1:] for page in real(*asked)))
    before = await kept.events()
    with pytest.raises(ArchiveProblem, match="does not read as it was written"):
        await kept.archive(APRIL)
    assert (await kept.events(), await kept.recorded()) == (before, [])


async def changed(kept: Books, which: Callable[[Any], bool], **columns: Any) -> dict[str, Any]:
    """Another file in the place of one, with a row that is not what it was, or without it; that row, as it was."""
    for path in sorted(kept.folder.glob("*.parquet")):
        rows = [row for page in ParquetFile(path).pages(Wanted()) for row in page]
        for number, row in enumerate(rows):
            if which(row):
                rows[number : number + 1] = [{**row, **columns}] if columns else []
                path.unlink()
                writer = Writer(path)
                writer.add(rows)
                writer.close()
                return dict(row)
    raise AssertionError("no such row")


async def tamper(kept: Books, statement: str, *arguments: Any) -> None:
    async with kept.superuser.transaction():
        await kept.superuser.execute("SET LOCAL session_replication_role = replica")
        assert not (await kept.superuser.execute(statement, *arguments)).endswith(" 0")


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
        await alone(connection)
        with pytest.raises(Busy, match="another rebuild or archiving"):
            await kept.archive(APRIL)
    assert len(await kept.archive(APRIL)) == 1


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


CHECKED = (*CHECKS, SAME_ROWS)


async def findings(kept: Books, keys: Any = KEYS) -> list[str]:
    """What `verify` says, of the books and of the chains."""
    url, folder = kept.url("skeldir_owner"), kept.folder
    report = await verify(url, CHECKED, archive=folder, keys=keys)
    chains = await verify_chains(url, keys, archive=folder)
    found = [(one.subject, one.problem) for one in report.findings] + [tuple(one) for one in chains.findings]
    return [": ".join(one) for one in found]


async def test_books_balance_with_their_archive(kept: Books) -> None:
    assert await findings(kept) == []
    before = await verify_chains(kept.url("skeldir_owner"), {})
    await kept.archive(MAY, key=KEY)
    assert await findings(kept) == []
    report = await verify(kept.url("skeldir_owner"), CHECKED, archive=kept.folder)
    assert report.checks == dict.fromkeys([FILES.name, *(check.name for check in CHECKED)], 0)
    chains = await verify_chains(kept.url("skeldir_owner"), {}, archive=kept.folder)
    assert (chains.rows, chains.chains) == (before.rows, before.chains)


async def test_with_several_readers_too(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a share of the tenants, or of the chains. What goes to another process is copied here, too."""
    shares: list[Any] = []

    async def one_by_one(work: Any, pieces: Sequence[Any], *_: Any) -> list[Any]:
        shares.extend(pieces)
        return [await work(pickle.loads(pickle.dumps(piece)), lambda _: None) for piece in pieces]

    async def walks(pieces: Sequence[Any], follower: Any) -> list[Any]:
        return await one_by_one(lambda piece, _: share.walk(piece, follower.take), pieces)

    await kept.archive(MAY)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(verify_, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(verify_, "shared", one_by_one)
    monkeypatch.setattr(audit, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(audit, "_in_processes", walks)
    assert await findings(kept) == []
    assert len(shares) == 3 + 3


@pytest.mark.parametrize("work", [verify, verify_chains])
async def test_without_its_archive_nothing_is_said_of_the_books(kept: Books, work: Any) -> None:
    await kept.archive(MAY)
    url = kept.url("skeldir_owner")
    keys: Any = () if work is verify else ({},)
    with pytest.raises(ArchiveProblem, match="events of 2025-03 to 2025-04 are in an archive: give its folder"):
        await work(url, *keys)
    with pytest.raises(ArchiveProblem, match=r"is no folder: .*elsewhere"):
        await work(url, *keys, archive=kept.folder / "elsewhere")


async def test_a_missing_file_is_named(kept: Books) -> None:
    await kept.archive(MAY)
    gone = next(iter(sorted(kept.folder.glob("*2025-03-0-*"))))
    gone.unlink()
    of_file, *of_chains = await findings(kept)
    assert of_file.startswith(f"{gone.name}: is missing, with ") and of_file.endswith(" events of 2025-03")
    assert any("partition 0 row" in one and "missing before" in one for one in of_chains)
    assert any(one.startswith(f"archive {gone.name}: ") and "cannot be read" in one for one in of_chains)


async def test_a_file_of_other_bytes_is_named(kept: Books) -> None:
    await kept.archive(MAY)
    torn = next(iter(sorted(kept.folder.glob("*2025-03-0-*"))))
    torn.write_bytes(torn.read_bytes()[:-100])
    of_file, *of_chains = await findings(kept)
    assert of_file == f"{torn.name}: was changed: its SHA-256 is not the recorded one"
    assert any(one.startswith(f"archive {torn.name}: ") for one in of_chains)


async def test_a_changed_row_of_a_file_is_named_by_its_number(kept: Books) -> None:
    await kept.archive(MAY)
    row = await changed(kept, lambda row: row["type"] == "task.allowed", user_id=uuid4())
    of_file, of_row = await findings(kept)
    assert "was changed" in of_file
    assert of_row.startswith(f"partition {row['partition']} row {row['chain_no']}: task.allowed {row['id']} ")


async def test_a_row_that_was_taken_out_of_a_file_is_named(kept: Books) -> None:
    await kept.archive(MAY)
    row = await changed(kept, lambda row: row["chain_no"] == 5)
    of_file, of_row = await findings(kept)
    assert "was changed" in of_file
    assert of_row.startswith(f"partition {row['partition']} row 5: row 5 is missing before ")


async def test_a_row_at_another_number_of_the_table_is_in_its_place(kept: Books) -> None:
    """That number is not hashed; by the file it is found all the same."""
    await kept.archive(MAY)
    await changed(kept, lambda row: row["chain_no"] == 5, seq=10**9)
    (of_file,) = await findings(kept)
    assert "was changed" in of_file


async def test_a_record_is_sealed(kept: Books) -> None:
    """Who writes another file and its record anew has no key to seal it by."""
    await kept.archive(APRIL, key=KEY)
    await tamper(kept, "UPDATE event_archives SET unencrypted = unencrypted + 1 WHERE chain = 0")
    (found,) = await findings(kept)
    assert "has a record that was changed: its seal is not that of its content" in found
    assert await findings(kept, keys={}) == []


async def test_ends_and_allows_are_held_against_each_other_across_the_archive(kept: Books) -> None:
    """A second end that came late, and an attempt whose allow is gone, one in a file and the other in the table."""
    history = await kept.take_in(datetime(2025, 4, 12, tzinfo=UTC), ENDED)
    await kept.archive(MAY)
    ends = [record for record in history.records() if record.type == "task.succeeded"]
    await kept.commit([replace(ends[0], id=uuid4(), time=ends[0].time.replace(month=5))])
    assert [one for one in await findings(kept) if one.startswith(f"{ends[0].subject}: 2 ends: ")] != []
    attempts = [record for record in history.records() if record.type == "attempt.started"]
    body = attempts[0].body.replace(str(orjson.loads(attempts[0].body)["data"]["decision_id"]), str(uuid4()))
    again = replace(attempts[0], id=uuid4(), body=body, time=attempts[0].time.replace(month=5))
    await kept.commit([again])
    decisions, place = attempts[0].stream.replace("outcomes", "decisions"), attempts[0].entry_id
    await books.commit(kept.ledger, {decisions: "0-0"}, {decisions: place})
    found = await verify(kept.url("skeldir_owner"), archive=kept.folder)
    assert [one.problem for one in found.findings if one.check == "allowed_before_attempt"] == [
        f"attempt {again.id} has no earlier allow"
    ]


async def test_a_check_of_the_chains_goes_on_from_where_it_was(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept.archive(MAY)
    monkeypatch.setattr(share, "PAGE", 20)
    url, file = kept.url("skeldir_owner"), kept.folder.parent / "bookmark"
    whole = await verify_chains(url, {}, archive=kept.folder)
    with monkeypatch.context() as patch:
        taken = count()

        def stops(follower: Any, news: Any, real: Any = audit._Follower.take) -> None:
            real(follower, news)
            if next(taken) == 2:
                raise KeyboardInterrupt

        patch.setattr(audit._Follower, "take", stops)
        with pytest.raises(KeyboardInterrupt):
            await verify_chains(url, {}, resume=file, archive=kept.folder)
    report = await verify_chains(url, {}, resume=file, archive=kept.folder)
    assert report.sound and report.resumed > 0 and report.rows == whole.rows
