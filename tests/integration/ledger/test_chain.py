"""The chain of events: whatever is done to a row behind the ledger's back is found, and named."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger import books, months, sessions
from services.ledger.audit import chains, share
from services.ledger.audit.bookmark import UnusableBookmark
from services.ledger.audit.chains import ChainReport, verify_chains
from services.ledger.chain import heads
from services.ledger.chain.link import link, links, of_record, of_row, start
from services.ledger.chain.seal import UnusableKey, key_id, new_key, public_pem, read_private, read_public
from services.ledger.chain.sealer import Sealer
from services.ledger.intake import Record
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, Bench, eventually, own_database
from tests.unit.ledger.history import History

KEY = Ed25519PrivateKey.generate()
KEYS = {key_id(KEY.public_key()): KEY.public_key()}


class Books:
    """A partition with events in its chain, and hands that may do anything to them."""

    def __init__(self, bench: Bench, history: History, connection: Any, superuser: Any) -> None:
        history.partition = bench.partition
        self.chain = bench.partition.number
        self.records = history.records()
        self.url = bench.database_url
        self.connection = connection
        self.superuser = superuser

    async def take_in(self, records: list[Record]) -> None:
        async with self.connection.transaction():
            await books.take_in(self.connection, records)

    async def seal(self) -> Any:
        return await heads.seal(self.connection, self.chain, KEY)

    async def tamper(self, statement: str, *arguments: Any) -> None:
        """What the owner of the database can do."""
        async with self.superuser.transaction():
            await self.superuser.execute("SET LOCAL session_replication_role = replica")  # no triggers
            done = await self.superuser.execute(f"{statement} AND partition = {self.chain}", *arguments)
            assert not done.endswith(" 0"), done

    async def report(self, keys: Any = KEYS, **options: Any) -> ChainReport:
        return await verify_chains(self.url, keys, only=self.chain, **options)

    async def found(self) -> list[str]:
        """Which rows are named."""
        return [one.subject.removeprefix(f"partition {self.chain} ") for one in (await self.report()).findings]


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """A database of these tests' own, since they leave ruins: its URL in a role."""
    with own_database(postgres, "chains") as url:
        yield url


@pytest.fixture
async def chained(bench: Bench, as_ledger: Any, as_superuser: Any) -> Books:
    found = Books(bench, bench.history(FULL), as_ledger, as_superuser)
    await found.take_in(found.records[:20])
    await found.seal()
    await found.take_in(found.records[20:])
    return found


async def test_what_the_ledger_wrote_is_sound(chained: Books) -> None:
    report = await chained.report()
    assert report.sound and report.rows == len(chained.records) > 30
    assert report.unsealed == report.rows - 20 and not report.unchecked_seals
    rows = await chained.superuser.fetch("SELECT * FROM events WHERE partition = $1 ORDER BY chain_no", chained.chain)
    assert [row["id"] for row in rows] == [record.id for record in chained.records]
    assert [row["chain_hash"] for row in rows] == links(start(chained.chain), map(of_record, chained.records))
    await chained.seal()
    assert await chained.seal() is None, "once is enough"
    assert (await chained.report()).unsealed == 0


async def test_duplicates_leave_no_gap(chained: Books, bench: Bench) -> None:
    again = chained.records[5:9]
    async with chained.connection.transaction():
        assert await books.take_in(chained.connection, [*again, *again]) == []
    assert (await chained.report()).sound


CHANGES = {
    "body": "body = body || ' '",
    "tenant": "tenant_id = gen_random_uuid()",
    "time": "time = time + interval '1 microsecond'",
    "type": "type = 'task.failed'",
    "stream": "stream = stream || 'x'",
    "entry": "entry_id = '1-1'",
    "id": "id = gen_random_uuid()",
    "correlation": "correlation_id = ''",
    "cause": "causation_id = gen_random_uuid()",
    "version": "version = 2",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_row_is_named_and_no_other(chained: Books, change: str) -> None:
    await chained.tamper(f"UPDATE events SET {CHANGES[change]} WHERE chain_no = 12")
    assert await chained.found() == ["row 12"]


async def test_a_removed_row_is_named(chained: Books) -> None:
    await chained.tamper("DELETE FROM events WHERE chain_no = 12")
    assert await chained.found() == ["row 12"]


async def test_a_removed_row_is_found_where_the_others_close_up(chained: Books) -> None:
    await chained.tamper("DELETE FROM events WHERE chain_no = 12")
    await chained.tamper("UPDATE events SET chain_no = chain_no - 1 WHERE chain_no > 12")
    assert (await chained.found())[:2] == ["row 12", "seal of row 20"]


async def test_rows_in_another_order_are_named(chained: Books) -> None:
    await chained.tamper("UPDATE events SET chain_no = 25 - chain_no WHERE chain_no IN (12, 13)")
    assert await chained.found() == ["row 12", "row 13", "row 14"]


@pytest.mark.parametrize("place", ["12", "NULL"])
async def test_an_inserted_row_is_found(chained: Books, place: str) -> None:
    columns = "partition, stream, entry_id, type, version, time, tenant_id, user_id, subject, causation_id, body"
    await chained.tamper(
        f"INSERT INTO events (id, chain_no, chain_hash, {columns}) SELECT gen_random_uuid(), {place}, chain_hash, "
        f"{columns} FROM events WHERE chain_no = 12"
    )
    named = {"12": "row 12", "NULL": f"partition {chained.chain}"}
    assert set(await chained.found()) == {named[place]}


@pytest.mark.parametrize("number", [-1, 10**12])
async def test_a_row_that_no_reading_by_number_would_see_is_named(chained: Books, number: int) -> None:
    await chained.tamper(f"UPDATE events SET seq = {number} WHERE chain_no = 12")
    (found,) = (await chained.report()).findings
    assert found.subject == f"partition {chained.chain} row 12" and f"{number}, was never given" in found.problem


async def test_a_chain_that_was_forgotten_is_named(chained: Books) -> None:
    await chained.superuser.execute("DELETE FROM event_chains WHERE chain = $1", chained.chain)
    assert await chained.found() == []  # it is not asked for
    findings = (await verify_chains(chained.url, KEYS)).findings
    (found,) = [one for one in findings if one.subject == f"partition {chained.chain}"]
    assert found.problem == f"{len(chained.records)} rows of a chain that was never begun"


async def test_rows_cut_off_at_the_end_are_found_by_the_last_seal(chained: Books) -> None:
    await chained.seal()
    length = len(chained.records)
    await chained.tamper("DELETE FROM events WHERE chain_no > 15")
    assert await chained.found() == [f"row 16 to {length}"]


async def test_a_chain_that_was_written_anew_is_found_by_its_seal(chained: Books) -> None:
    """Whoever owns the database can make all hashes again, but not the signature."""
    await chained.tamper("UPDATE events SET body = body || ' ' WHERE chain_no = 12")
    before = start(chained.chain)
    rows = await chained.superuser.fetch("SELECT * FROM events WHERE partition = $1 ORDER BY chain_no", chained.chain)
    for row in rows:
        before = link(before, of_row(row))
        await chained.tamper("UPDATE events SET chain_hash = $1 WHERE id = $2", before, row["id"])
    await chained.superuser.execute("UPDATE event_chains SET head = $1 WHERE chain = $2", before, chained.chain)
    assert await chained.found() == ["seal of row 20"]
    await chained.superuser.execute("SET session_replication_role = replica")
    query = "SELECT chain_hash FROM events WHERE partition = $1 AND chain_no = 20"
    head = await chained.superuser.fetchval(query, chained.chain)
    await chained.superuser.execute("UPDATE event_seals SET head = $1 WHERE chain = $2", head, chained.chain)
    await chained.superuser.execute("SET session_replication_role = origin")
    report = await chained.report()
    assert any("signature" in one.problem for one in report.findings)


async def test_a_seal_of_another_key_is_not_taken_for_one_of_ours(chained: Books) -> None:
    report = await chained.report({})
    assert report.sound and report.unchecked_seals == 1 and report.unsealed == report.rows


async def test_events_from_before_the_chain_are_counted(bench: Bench, as_superuser: Any) -> None:
    """As the migration leaves them."""
    chain = bench.partition.number
    insert = "INSERT INTO events (id, partition, stream, entry_id, type, version, time, subject, body) VALUES"
    await as_superuser.execute(f"{insert} ($1, $2, 's', '1-1', 't', 1, now(), 's', '{{}}')", UUID(int=chain), chain)
    await as_superuser.execute(
        "INSERT INTO event_chains (chain, unchained, head) VALUES ($1, 1, $2)", chain, start(chain)
    )
    report = await verify_chains(bench.database_url, KEYS, only=chain)
    assert report.sound and report.unchained == 1


async def test_who_appends_waits_for_who_appends(bench: Bench, as_ledger: Any, as_superuser: Any) -> None:
    """A retried entry and the writer: one order, no fork."""
    history = bench.history(FULL)
    history.partition = bench.partition
    records = history.records()

    async def append(connection: Any, some: list[Record]) -> None:
        async with connection.transaction():
            await books.take_in(connection, some)

    await append(as_ledger, records[:5])
    other: Any = await asyncpg.connect(bench.database_url)
    try:
        async with other.transaction():
            await books.take_in(other, records[5:10])
            second = asyncio.create_task(append(as_ledger, records[10:]))
            waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'"

            async def waiting() -> bool:
                return bool(await as_superuser.fetchval(waits, as_ledger.get_server_pid()))

            await eventually(waiting, "the second one waits")
        await second
    finally:
        await other.close()
    report = await verify_chains(bench.database_url, KEYS, only=bench.partition.number)
    assert report.sound and report.rows == len(records)


async def test_a_writer_seals_when_it_is_time(chained: Books, bench: Bench) -> None:
    async with sessions.pool(bench.database_url, name="sealer", size=1) as pool:
        by_count = Sealer(KEY, chained.chain, events=10, seconds=3600)
        await by_count.seal_if_due(pool)
        assert (await chained.report()).unsealed > 0, "neither is it time, nor are there enough"
        by_count.appended(9)
        await by_count.seal_if_due(pool)
        assert (await chained.report()).unsealed == 0
        await Sealer(None, chained.chain, events=1, seconds=0).seal_if_due(pool)  # without a key: nothing


class Interrupted(Exception):
    """By a person."""


async def test_a_check_goes_on_from_where_it_was_left(
    chained: Books, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it had found, and with what came since."""
    file = tmp_path / "how-far"
    await chained.tamper("UPDATE events SET body = body || ' ' WHERE chain_no IN (2, 30)")
    monkeypatch.setattr(share, "PAGE", 10)
    last = await chained.superuser.fetchval("SELECT last_value FROM events_seq_seq")
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done > 15:
            raise Interrupted

    with pytest.raises(Interrupted):
        await chained.report(resume=file, progress=progress)
    done, total = seen[-1]
    assert 15 < done < 30 and total == len(chained.records) and file.exists()
    (mark,) = orjson.loads(file.read_bytes())["marks"].values()
    assert mark["place"]["length"] == done and mark["after"] < last

    await chained.tamper(
        "UPDATE events SET body = body || ' ' WHERE chain_no = 3"
    )  # behind it: that is for another run
    more = moved_on(bench, chained)
    await chained.take_in(more)
    report = await chained.report(resume=file)
    named = [one.subject.removeprefix(f"partition {chained.chain} ") for one in report.findings]
    assert named == ["row 2", "row 30"] and report.broken == 2
    assert (report.resumed, report.rows, file.exists()) == (done, len(chained.records) + len(more), False)
    assert len((await chained.report(resume=file)).findings) == 3


def moved_on(bench: Bench, chained: Books) -> list[Record]:
    """Other events of the same partition."""
    return [replace(one, id=uuid4(), time=one.time + timedelta(hours=1)) for one in chained.records[:7]]


async def test_a_file_of_other_books_is_refused(chained: Books, tmp_path: Path) -> None:
    file = tmp_path / "how-far"
    for text in (
        b"not JSON",
        b'{"skeldir_bookmark": 1, "books": "1/2", "marks": {}, "findings": [], "broken": 0}',
        b"{}",
    ):
        file.write_bytes(text)
        with pytest.raises(UnusableBookmark, match="how-far"):
            await chained.report(resume=file)
        assert file.read_bytes() == text


async def test_a_check_that_may_be_left_waits_for_who_is_about_to_append(
    bench: Bench, as_ledger: Any, as_superuser: Any, tmp_path: Path
) -> None:
    """Rows that are not there yet, with lower numbers than some that are, would be passed over by the next run."""
    history = bench.history(FULL)
    history.partition = bench.partition
    records = history.records()
    await months.make(as_ledger, months.months_of(one.time for one in records))  # who makes a month is waited for, too
    writing = as_ledger.transaction()
    await writing.start()
    await books.take_in(as_ledger, records)
    check = asyncio.create_task(
        verify_chains(bench.database_url, KEYS, only=bench.partition.number, resume=tmp_path / "how-far")
    )

    async def waits() -> bool:
        assert not check.done(), await check
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'"
        return bool(await as_superuser.fetchval(waiting))

    await eventually(waits, "it waits for the writer")
    await writing.commit()
    assert (await check).rows == len(records)


async def test_several_processes_find_what_one_finds(chained: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all that these tests have left behind."""
    other = replace(chained.records[0], partition=chained.chain + 1, id=uuid4())
    await chained.take_in([other])
    await chained.tamper("UPDATE events SET body = body || ' ' WHERE chain_no = 12")
    alone = await verify_chains(chained.url, KEYS)
    assert alone.processes == 1 and alone.chains > 1 and f"partition {chained.chain} row 12" in str(alone.findings)
    monkeypatch.setattr(chains, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    seen: list[tuple[int, int]] = []
    together = await verify_chains(chained.url, KEYS, lambda done, total: seen.append((done, total)))
    assert together.processes == 2 and len(set(seen[-1])) == 1, "the last that is told is that all is done"
    monkeypatch.setattr(chains._Follower, "take", lambda *_: None)  # also where nothing that others told has arrived
    seen.clear()
    await verify_chains(chained.url, KEYS, lambda done, total: seen.append((done, total)), only=chained.chain)
    assert len(seen) == 1 and seen[0][0] == seen[0][1] > 0
    assert replace(together, processes=1, seconds=0) == replace(alone, seconds=0)


def test_keys_come_from_files_that_only_their_owner_may_read(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_text(new_key())
    public.write_text(public_pem(read_private(private).public_key()))
    assert key_id(read_public(public)) == key_id(read_public(private))
    for broken in ("", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        private.write_text(broken)
        with pytest.raises(UnusableKey, match=r"key\.pem"):
            read_public(private)
