"""How the log stands to the books, stream by stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from redis.asyncio import Redis

from services.ledger import books
from services.ledger.continuity import Standing, standings
from services.ledger.sessions import Connection, write_as_ledger
from shared.control_state import order_of
from shared.partitions import CONTROL, Partition
from skeldir.restoring.count import at_least

TIMEOUT_S = 30.0

ADVICE = {
    Standing.LOST: "the log was lost, the books were not: stop the services, then `skeldir restore log`",
    Standing.BEHIND: "the log's end was lost, and the books have it: stop the services, then "
    "`skeldir restore log --replace`",
    Standing.GAP: "the books are an older copy than what the log goes back to: a newer copy, or `skeldir restore gap`",
}


@dataclass(frozen=True, slots=True)
class Survey:
    """What each partition's streams, and the control stream, are to the books; and up to where those go."""

    control: Standing
    partitions: dict[int, dict[str, Standing]]
    checkpoints: dict[str, str]

    @property
    def floor(self) -> str:
        """No entry of a partition is in the books behind this id."""
        found = [at for stream, at in self.checkpoints.items() if stream != CONTROL]
        return max(found, key=order_of, default="0-0")

    def of(self, number: int) -> Standing:
        """How a partition stands: as its worst stream."""
        return max(self.partitions[number].values())

    @property
    def worst(self) -> Standing:
        """How all of it stands. A control stream that lacks an order is as good as lost."""
        control = Standing.LOST if self.control is Standing.BEHIND else self.control
        return max(control, *(self.of(number) for number in self.partitions))


async def survey(redis: Redis, connection: Connection, known: Sequence[Partition]) -> Survey:
    """Look at these partitions, in a transaction that sees the checkpoints. Raises RedisError, the driver's errors."""
    streams = [CONTROL, *(stream for one in known for stream in streams_of(one))]
    checkpoints = await books.positions(connection, streams)
    found = {
        one.number: await standings(redis, {name: checkpoints[name] for name in streams_of(one)}, one.policy)
        for one in known
    }
    control = await standings(redis, {CONTROL: checkpoints[CONTROL]}, None)
    return Survey(control[CONTROL], found, checkpoints)


async def how_it_stands(redis: Redis, database_url: str, partitions: int) -> Standing:
    """All of it. The URL is the ledger's, or the owner's. Raises RedisError, the driver's errors."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction(readonly=True):
            await write_as_ledger(connection)
            # Of a lost log it is not known how many it had: more, where the books say so.
            known = all_of(max(partitions, await at_least(connection)))
            return (await survey(redis, connection, known)).worst
    finally:
        await connection.close()


def all_of(partitions: int) -> list[Partition]:
    """The partitions of a system that has so many."""
    return [Partition(number) for number in range(partitions)]


def streams_of(partition: Partition) -> tuple[str, str, str]:
    """The streams that the books take in."""
    return partition.tasks, partition.decisions, partition.outcomes
