"""Books balance with their archive; whatever is done to a file of it is found, and named."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import uuid4

import orjson
import pytest

from services.ledger import books
from services.ledger import verify as verify_
from services.ledger.archive.record import ArchiveProblem
from services.ledger.audit import chains, share
from services.ledger.audit.chains import verify_chains
from services.ledger.verify import FILES, verify
from tests.integration.ledger.archive.conftest import (
    APRIL,
    CHECKED,
    ENDED,
    KEY,
    MAY,
    Books,
    changed,
    findings,
    tamper,
)


async def test_books_balance_with_their_archive(kept: Books) -> None:
    assert await findings(kept) == []
    before = await verify_chains(kept.url("skeldir_owner"), {})
    await kept.archive(MAY, key=KEY)
    assert await findings(kept) == []
    report = await verify(kept.url("skeldir_owner"), CHECKED, archive=kept.folder)
    assert report.checks == dict.fromkeys([FILES.name, *(check.name for check in CHECKED)], 0)
    chains = await verify_chains(kept.url("skeldir_owner"), {}, archive=kept.folder)
    assert (chains.rows, chains.chains) == (before.rows, before.chains)


async def test_a_wrong_row_is_held_against_events_of_the_archive(kept: Books) -> None:
    await kept.archive(MAY)
    march = "total_calls > 1 AND month = '2025-03-01'"
    await kept.ledger.execute(f"UPDATE llm_monthly_costs SET total_calls = total_calls + 1 WHERE {march}")
    wrong = await kept.ledger.fetch(
        f"SELECT concat_ws(' ', tenant_id, user_id, month) FROM llm_monthly_costs WHERE {march}"
    )
    assert wrong and sorted(await findings(kept)) == sorted(f"llm_monthly_costs {row[0]}: total_calls" for row in wrong)


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
    monkeypatch.setattr(chains, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(chains, "_in_processes", walks)
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

        def stops(follower: Any, news: Any, real: Any = chains._Follower.take) -> None:
            real(follower, news)
            if next(taken) == 2:
                raise KeyboardInterrupt

        patch.setattr(chains._Follower, "take", stops)
        with pytest.raises(KeyboardInterrupt):
            await verify_chains(url, {}, resume=file, archive=kept.folder)
    report = await verify_chains(url, {}, resume=file, archive=kept.folder)
    assert report.sound and report.resumed > 0 and report.rows == whole.rows
