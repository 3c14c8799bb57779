"""The ledger on a log that was lost, or that begins behind its books: it stops, says why, and goes on when it may."""

from __future__ import annotations

from typing import Any

from services.ledger import books
from skeldir.restoring.gap import gaps
from tests.integration.ledger.conftest import FULL, Bench, eventually, snapshot
from tests.integration.ledger.test_writer import COUNT, all_in

SKIPPED = "SELECT entry_id, reason, dead_lettered FROM skipped_entries WHERE stream = $1"


async def fill(bench: Bench, as_ledger: Any) -> int:
    """A history in log and books; of how many events."""
    history = bench.history(FULL)
    await bench.append(*history.entries)
    async with bench.writer():
        await all_in(as_ledger, bench, len(history.entries))
    return len(history.entries)


async def problem(bench: Bench, part: str) -> None:
    """Wait for a writer that says so, and is not ready."""
    async with bench.writer() as writer:

        async def said() -> bool:
            return part in (writer.problem or "")

        await eventually(said, part)


async def test_a_lost_log_is_not_taken_for_a_new_one(bench: Bench, as_ledger: Any) -> None:
    count, admin, partition = await fill(bench, as_ledger), bench.redis_as("admin"), bench.partition
    streams = (partition.tasks, partition.decisions, partition.outcomes)
    await admin.delete(*streams, partition.policy, partition.ledger)
    await admin.xadd(partition.tasks, {"type": "x", "data": "{}"})  # a gateway has gone on
    await problem(bench, "skeldir restore log")
    assert not await admin.exists(partition.ledger), "policy is not told that it may begin"
    assert await as_ledger.fetchval(COUNT, bench.tenant) == count
    await admin.hset(partition.policy, "tasks", "0-0")  # what a restoration writes last
    async with bench.writer() as writer:

        async def goes_on() -> bool:
            return bool(await admin.exists(partition.ledger)) and writer.problem is None

        await eventually(goes_on, "it goes on")


async def test_books_from_a_copy_are_read_again_from_the_log(bench: Bench, as_ledger: Any) -> None:
    """As after a restored database whose checkpoints are from before: each event is known by its id."""
    await fill(bench, as_ledger)
    before = await snapshot(as_ledger, bench.tenant)
    await as_ledger.execute("UPDATE checkpoints SET entry_id = '0-0' WHERE stream = $1", bench.partition.outcomes)
    newest = (await bench.redis_as("admin").xrevrange(bench.partition.outcomes, count=1))[0][0].decode()
    async with bench.writer() as writer:

        async def caught_up() -> bool:
            at = await books.positions(as_ledger, [bench.partition.outcomes])
            return bool(at[bench.partition.outcomes] == newest)

        await eventually(caught_up, "it has read all of it again")
        assert writer.problem is None
    assert await snapshot(as_ledger, bench.tenant) == before


async def test_a_gap_stops_the_books_until_somebody_accepts_it(bench: Bench, as_ledger: Any) -> None:
    await fill(bench, as_ledger)
    admin, stream = bench.redis_as("admin"), bench.partition.tasks
    entries = [entry_id.decode() for entry_id, _ in await admin.xrange(stream)]
    await admin.xtrim(stream, minid=entries[3], approximate=False)
    await as_ledger.execute("UPDATE checkpoints SET entry_id = $1 WHERE stream = $2", entries[0], stream)
    await problem(bench, "skeldir restore gap")
    told = await admin.hget(bench.partition.ledger, "tasks")
    assert told == entries[0].encode(), "and no more is trimmed"
    redis = bench.redis_as("ledger")

    async def missing(accepted_by: str | None = None) -> list[tuple[str, str, str]]:
        found = await gaps(redis, bench.database_url, accepted_by, [bench.partition])
        return [(one.stream, one.after, one.first) for one in found]

    assert await missing() == [(stream, entries[0], entries[3])]
    assert not await as_ledger.fetch(SKIPPED, stream)
    assert await missing("ada: no newer copy") == [(stream, entries[0], entries[3])]
    (note,) = await as_ledger.fetch(SKIPPED, stream)
    assert "ada: no newer copy" in note["reason"] and entries[3] in note["reason"] and note["dead_lettered"]
    assert await missing() == []
    async with bench.writer() as writer:

        async def goes_on() -> bool:
            return (await books.positions(as_ledger, [stream]))[stream] == entries[-1] and writer.problem is None

        await eventually(goes_on, "the books go on behind the gap")
