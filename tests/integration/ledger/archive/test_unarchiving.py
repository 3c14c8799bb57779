"""A month comes back as it was, or not at all; and what was erased meanwhile does not come back."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from services.ledger import sessions
from services.ledger.archive import unarchiving
from services.ledger.archive.record import ArchiveProblem
from services.ledger.archive.unarchiving import unarchive
from services.ledger.history.reading import Bounds, verify_history
from services.ledger.keyring import Keyring
from services.ledger.rebuild import rebuild
from services.ledger.sessions import Busy, alone
from services.ledger.verify import verify
from shared.texts.cipher import keys_in
from shared.texts.data_keys import open_keys
from tests.integration.ledger.archive.conftest import (
    APRIL,
    ENDED,
    KEY,
    KEYS,
    MARCH,
    MAY,
    Books,
    changed,
    findings,
    tamper,
)
from tests.integration.ledger.archive.test_reading import tables
from tests.integration.ledger.archive.test_still_there import MASTERS, erase, told


async def back(kept: Books, month: Any = MARCH, **options: Any) -> int:
    """How many events came back."""
    files = await unarchive(kept.url("skeldir_owner"), kept.folder, month, keys=KEYS, **options)
    return sum(one.rows for one in files)


async def is_as_archived(kept: Books, events: list[dict[str, Any]], recorded: list[asyncpg.Record]) -> None:
    """Nothing came back."""
    assert (await kept.events(), await kept.recorded()) == (events, recorded)
    assert await kept.superuser.fetchval("SELECT to_regclass('rebuilding.unarchived_events')") is None


async def test_a_month_comes_back_as_it_was(kept: Books) -> None:
    """The others stay in the archive; every check finds what it found before, and so does a rebuild."""
    bounds = Bounds(pending_ms=10**12)
    await kept.take_in(datetime(2025, 3, 12, tzinfo=UTC), ENDED)
    before, rows = await kept.events(), await tables(kept)
    history = await verify_history(kept.url("skeldir_owner"), bounds)
    await kept.archive(MAY, key=KEY)
    assert await findings(kept) == []
    stay, files = await kept.events(), {path.name for path in kept.folder.iterdir()}
    assert await back(kept) == sum(1 for row in before if row["time"].month == 3) - sum(
        1 for row in stay if row["time"].month == 3
    )
    assert await kept.events() == [row for row in before if row["time"].month != 4 or row in stay]
    assert {row["month"] for row in await kept.recorded()} == {APRIL}
    assert {path.name for path in kept.folder.iterdir()} == files, "nothing is removed"
    assert await findings(kept) == []
    await back(kept, APRIL)
    assert await kept.events() == before and await kept.recorded() == []
    assert await findings(kept) == []
    after = await verify_history(kept.url("skeldir_owner"), bounds)
    assert asdict(replace(after, seconds=0)) == asdict(replace(history, seconds=0))
    assert not any((await rebuild(kept.url("skeldir_owner"))).changed.values()) and await tables(kept) == rows
    report = await verify(kept.url("skeldir_owner"), keys=KEYS)
    assert report.sound, "without a folder"


async def test_it_is_archived_again_into_the_same_files(kept: Books) -> None:
    await kept.archive(APRIL)
    before = {path.name: path.read_bytes() for path in kept.folder.iterdir()}
    await back(kept)
    await kept.archive(APRIL)
    assert {path.name: path.read_bytes() for path in kept.folder.iterdir()} == before
    assert await findings(kept) == []


async def test_what_has_no_month_in_the_archive_is_said(kept: Books) -> None:
    with pytest.raises(ArchiveProblem, match="no events of 2025-03 are in the archive"):
        await back(kept)
    await kept.archive(APRIL)
    with pytest.raises(ArchiveProblem, match="no events of 2025-04 are in the archive"):
        await back(kept, APRIL)
    with pytest.raises(ArchiveProblem, match="give its folder"):
        await unarchive(kept.url("skeldir_owner"), None, MARCH)


@pytest.mark.parametrize("damage", ["other bytes", "missing", "changed row", "record"])
async def test_a_damaged_file_is_refused(kept: Books, damage: str) -> None:
    """By its name, and whichever of the month's files it is: all of the month stays where it is."""
    await kept.archive(MAY, key=KEY)
    last = max(kept.folder.glob("events-2025-03-*"), key=lambda path: path.name)
    if damage == "other bytes":
        last.write_bytes(last.read_bytes()[:-1] + b"?")
    elif damage == "missing":
        last.unlink()
    elif damage == "changed row":
        row = await changed(kept, lambda row: row["time"].month == 3, user_id=uuid4())
        last = next(path for path in kept.folder.glob(f"events-2025-03-{row['partition']}-*"))
    else:
        statement = "UPDATE event_archives SET unencrypted = unencrypted + 1 WHERE file = $1"
        await tamper(kept, statement, last.name)
    events, recorded = await kept.events(), await kept.recorded()
    said = {"missing": "is missing", "record": "has a record that was changed"}.get(damage, "was changed: its SHA-256")
    with pytest.raises(ArchiveProblem, match=f"{last.name} of the archive {said}.*; 2025-03 stays in the archive"):
        await back(kept)
    await is_as_archived(kept, events, recorded)


async def test_a_file_that_was_made_anew_with_its_record_is_refused_by_the_chain(kept: Books) -> None:
    await kept.archive(MAY)
    row = await changed(kept, lambda row: row["type"] == "task.allowed" and row["time"].month == 3, user_id=uuid4())
    for path in kept.folder.glob("*.parquet"):
        await tamper(
            kept, "UPDATE event_archives SET sha256 = sha256($2) WHERE file = $1", path.name, path.read_bytes()
        )
    events, recorded = await kept.events(), await kept.recorded()
    with pytest.raises(ArchiveProblem, match=f"partition {row['partition']} row {row['chain_no']}, .*its hash is not"):
        await back(kept)
    await is_as_archived(kept, events, recorded)


async def test_fewer_rows_than_are_recorded_are_refused(kept: Books) -> None:
    """Of a chain's end, where no row follows on the one that is gone."""
    await kept.archive(APRIL)
    last = max((row for row in kept.archived() if row["partition"] == 1), key=lambda row: row["seq"])["seq"]
    await changed(kept, lambda row: row["seq"] == last)
    for path in kept.folder.glob("*.parquet"):
        await tamper(
            kept, "UPDATE event_archives SET sha256 = sha256($2) WHERE file = $1", path.name, path.read_bytes()
        )
    events, recorded = await kept.events(), await kept.recorded()
    with pytest.raises(ArchiveProblem, match=r"events are in the files, and \d+ are recorded"):
        await back(kept)
    await is_as_archived(kept, events, recorded)


async def test_events_that_are_there_are_not_stored_twice(kept: Books) -> None:
    """A backup of before was restored, with the files' records of after: somebody mixed them up."""
    before = [row for row in await kept.events() if row["time"].month == 3]
    await kept.archive(APRIL)
    stay = {row["seq"] for row in await kept.events()}
    gone = next(row for row in before if row["seq"] not in stay)
    names = ", ".join(gone)
    values = ", ".join(f"${number + 1}" for number in range(len(gone)))
    await kept.superuser.execute(f"INSERT INTO events ({names}) VALUES ({values})", *gone.values())
    events, recorded = await kept.events(), await kept.recorded()
    with pytest.raises(ArchiveProblem, match="an event of 2025-03 is in the database, too"):
        await back(kept)
    await is_as_archived(kept, events, recorded)


@pytest.mark.parametrize("where", ["_read", "_put_back", "_forget"])
async def test_whoever_dies_on_the_way_leaves_it_in_the_archive(
    kept: Books, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept.archive(APRIL)
    events, recorded = await kept.events(), await kept.recorded()
    real = getattr(unarchiving, where)

    async def dies(*arguments: Any) -> None:
        await real(*arguments)
        raise OSError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(unarchiving, where, dies)
        with pytest.raises(OSError, match="the power is gone"):
            await back(kept)
    await is_as_archived(kept, events, recorded)
    await back(kept)
    assert await kept.recorded() == []


async def test_records_are_append_only_again(kept: Books) -> None:
    await kept.archive(MAY)
    await back(kept)
    for statement in ("DELETE FROM event_archives", "UPDATE event_archives SET size = 0"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await kept.superuser.execute(statement)


async def test_one_at_a_time_and_as_the_owner(kept: Books) -> None:
    await kept.archive(APRIL)
    events, recorded = await kept.events(), await kept.recorded()
    other = await asyncpg.connect(kept.url("skeldir_owner"))
    async with alone(other):
        with pytest.raises(Busy):
            await back(kept)
    await other.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await unarchive(kept.url("skeldir_ledger"), kept.folder, MARCH)
    await is_as_archived(kept, events, recorded)


async def test_writers_and_readers_go_on_meanwhile(kept: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same month, too, until the moment of the commit."""
    await kept.archive(APRIL)
    real = unarchiving._put_back

    async def put_back(*arguments: Any) -> None:
        await real(*arguments)
        async with asyncio.timeout(60):
            await kept.take_in(datetime(2025, 3, 13, tzinfo=UTC), ENDED)
            async with sessions.snapshot(kept.url("skeldir_owner"), timeout_s=10) as connection:
                assert await connection.fetchval("SELECT count(*) FROM event_archives") > 0

    monkeypatch.setattr(unarchiving, "_put_back", put_back)
    await back(kept)
    assert await findings(kept) == []


async def test_erased_texts_stay_erased(kept: Books) -> None:
    """They come back as they lie in the file: without their key."""
    secret, word = f"secret-{uuid4().hex}", f"kept-{uuid4().hex}"
    keyring = Keyring(MASTERS)
    (erased, first), (other, second) = await told(kept, secret, keyring), await told(kept, word, keyring)
    await kept.commit([*first, *second])
    await kept.archive(APRIL)
    await erase(kept, erased)
    await back(kept)
    rows = await kept.events()
    for owner, opens in ((erased, False), (other, True)):
        bodies = [row["body"] for row in rows if row["user_id"] == owner.user_id]
        wanted = {key for body in bodies for key in keys_in(body)}
        assert wanted and not any(secret in body or word in body for body in bodies)
        async with kept.ledger.transaction():
            assert bool(await open_keys(kept.ledger, MASTERS, wanted)) is opens
    assert await findings(kept) == []
    assert not any((await rebuild(kept.url("skeldir_owner"))).changed.values())
