"""Months that are old enough go by themselves, by one who may; where nobody does it, the ledger says so."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime

import asyncpg
import pytest
from structlog.testing import capture_logs

from services.ledger import books, metrics, sessions
from services.ledger.archive.archiving import latest_before
from services.ledger.archive.record import ArchiveProblem
from services.ledger.archive.retention import Overdue, archive_due, keep_archiving, overdue
from tests.integration.ledger.archive.conftest import APRIL, KEY, KEYS, MARCH, Books
from tests.integration.ledger.conftest import eventually


async def end_on(kept: Books, at: datetime) -> None:
    """The books end then."""
    await books.commit(kept.ledger, {"s": "0-0"}, {"s": f"{int(at.timestamp() * 1000)}-0"})


async def late(kept: Books, months: int) -> list[date]:
    async with kept.ledger.transaction():
        return await overdue(kept.ledger, months)


@pytest.mark.parametrize(
    ("end", "months", "before"),
    [
        (datetime(2025, 8, 1, tzinfo=UTC), 1, date(2025, 7, 1)),
        (datetime(2025, 8, 31, 23, tzinfo=UTC), 12, date(2024, 8, 1)),
        (datetime(2025, 1, 1, tzinfo=UTC), 1, date(2024, 12, 1)),
        (datetime(2025, 12, 1, tzinfo=UTC), 24, date(2023, 12, 1)),
        (datetime(2025, 3, 1, tzinfo=UTC), 0, date(2025, 2, 1)),
    ],
)
def test_so_many_months_stay_beside_the_last(end: datetime, months: int, before: date) -> None:
    assert latest_before(end, months) == before


async def test_what_is_old_enough_goes_and_nothing_else(kept: Books) -> None:
    await end_on(kept, datetime(2025, 6, 1, 0, 0, 1, tzinfo=UTC))
    before = await kept.events()
    assert (await archive_due(kept.url("skeldir_owner"), kept.folder, 3)) == {}
    went = await archive_due(kept.url("skeldir_owner"), kept.folder, 2, key=KEY)
    assert went is not None and list(went) == [MARCH]
    recorded = await kept.recorded()
    assert {row["month"] for row in recorded} == {MARCH} and {row["key_id"] for row in recorded} == set(KEYS)
    assert len(kept.archived()) == went[MARCH] == len(before) - len(await kept.events())
    went = await archive_due(kept.url("skeldir_owner"), kept.folder, 1)
    assert went is not None and list(went) == [APRIL]


async def test_one_process_does_it(kept: Books) -> None:
    """The other leaves it to that one: that is no failure. The lock is its connection's, and ends with its process."""
    await end_on(kept, datetime(2025, 7, 1, tzinfo=UTC))
    before = await kept.events()
    other = await asyncpg.connect(kept.url("skeldir_owner"))
    assert await other.fetchval("SELECT pg_try_advisory_lock($1)", sessions.LOCK)
    with capture_logs() as said:
        assert await archive_due(kept.url("skeldir_owner"), kept.folder, 1) is None
    assert [one["log_level"] for one in said] == ["info"] and await kept.events() == before
    other.terminate()

    async def done() -> bool:
        return bool(await archive_due(kept.url("skeldir_owner"), kept.folder, 1))

    await eventually(done, "another one takes it over")


async def test_no_service_may_do_it(kept: Books) -> None:
    await end_on(kept, datetime(2025, 7, 1, tzinfo=UTC))
    before = await kept.events()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await archive_due(kept.url("skeldir_ledger"), kept.folder, 1)
    assert (await kept.events(), await kept.recorded()) == (before, [])


async def test_what_fails_is_said_and_tried_again() -> None:
    outcomes: list[Exception | None] = [OSError("no space left"), ArchiveProblem("a row was changed"), None]
    done = asyncio.Event()

    async def work() -> dict[date, int]:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome
        done.set()
        outcomes.append(None)
        return {MARCH: 7}

    with capture_logs() as said:
        archiving = asyncio.create_task(keep_archiving(work, 0))
        async with asyncio.timeout(60):
            await done.wait()
        archiving.cancel()
        await asyncio.gather(archiving, return_exceptions=True)
    errors = [one["problem"] for one in said if one["log_level"] == "error"]
    assert errors == ["OSError: no space left", "ArchiveProblem: a row was changed"]


async def test_months_are_overdue_two_days_after_they_are_due(kept: Books) -> None:
    """What has to stay in its month is not overdue."""
    await end_on(kept, datetime(2025, 6, 2, 23, 59, tzinfo=UTC))
    assert await late(kept, 1) == [MARCH] and await late(kept, 2) == []
    await end_on_later(kept, datetime(2025, 6, 3, 0, 1, tzinfo=UTC))
    assert await late(kept, 1) == [MARCH, APRIL] and await late(kept, 2) == [MARCH]
    await archive_due(kept.url("skeldir_owner"), kept.folder, 2)
    assert [row for row in await kept.events() if row["time"].month == 3], "tasks that have not ended"
    assert await late(kept, 1) == [APRIL] and await late(kept, 2) == []


async def end_on_later(kept: Books, at: datetime) -> None:
    await kept.ledger.execute("UPDATE checkpoints SET entry_id = $1", f"{int(at.timestamp() * 1000)}-0")


async def test_the_ledger_says_how_many_are_overdue(kept: Books) -> None:
    """A metric, and a line that names them."""
    await end_on(kept, datetime(2025, 7, 1, tzinfo=UTC))
    metrics.ARCHIVE_OVERDUE.set(-1)
    with capture_logs() as said:
        async with sessions.pool(kept.url("skeldir_ledger"), name="ledger", size=1) as pool:
            looking = asyncio.create_task(Overdue(pool, 1).run())

            async def counted() -> bool:
                return bool(metrics.ARCHIVE_OVERDUE._value.get() == 2)

            await eventually(counted, "both months are counted")
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
    (line,) = said
    assert line["log_level"] == "warning" and line["months"] == ["2025-03", "2025-04"]
