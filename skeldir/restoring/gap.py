"""A gap in the books: entries that were trimmed from the log, and that a restored copy of the books does not have.

Nothing is dropped silently: the books go on behind it only when an operator says so, and then they say where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from redis.asyncio import Redis

from services.ledger import books
from services.ledger.continuity import Standing, before, look
from services.ledger.intake import Skip
from services.ledger.sessions import write_as_ledger
from shared.partitions import Partition
from skeldir.restoring.survey import survey

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries of `stream` after the one and before the other are in neither."""

    stream: str
    after: str
    first: str


async def gaps(redis: Redis, database_url: str, accepted_by: str | None, partitions: Sequence[Partition]) -> list[Gap]:
    """What is missing of these partitions. `accepted_by`: who says that the books are to go on behind it, and why.

    Raises RedisError, and the driver's errors.
    """
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction():
            await write_as_ledger(connection)
            found = await survey(redis, connection, partitions)
            streams = [
                stream
                for of_partition in found.partitions.values()
                for stream, standing in of_partition.items()
                if standing is Standing.GAP
            ]
            missing = []
            for stream in streams:
                at = found.checkpoints[stream]
                seen = await look(redis, stream, at)
                missing.append(Gap(stream, at, seen.first or seen.last))
            if accepted_by is not None:
                await _accept(connection, missing, accepted_by)
    finally:
        await connection.close()
    return missing


async def _accept(connection: Any, missing: list[Gap], accepted_by: str) -> None:
    """Note each, and go on right before the first entry that is there."""
    for gap in missing:
        reason = f"entries after {gap.after} and before {gap.first} are in neither log nor books; {accepted_by}"
        skipped = Skip(gap.stream, before(gap.first), reason, None, None, reported=True)
        await books.commit(connection, {gap.stream: gap.after}, {gap.stream: before(gap.first)}, skips=[skipped])
