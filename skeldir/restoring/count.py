"""How many partitions a log had that was lost: the books know some of it, and settings must not contradict them."""

from __future__ import annotations

from redis.asyncio import Redis

from services.ledger.sessions import Connection
from shared.partitions import PARTITIONS, Partition
from shared.settings import Settings
from shared.streams.partition_count import Count, agreed, count_of

_HIGHEST = r"SELECT max(substring(stream FROM '^\{skeldir:([0-9]+)\}')::integer) FROM checkpoints"


class NotNow(Exception):
    """The log cannot be restored as things are; the text says what to do."""


async def at_least(connection: Connection) -> int:
    """No fewer partitions were there: so many the books have events of, or those before them."""
    highest: int | None = await connection.fetchval(_HIGHEST)
    return 0 if highest is None else highest + 1


async def restore_count(redis: Redis, connection: Connection, settings: Settings, said: tuple[int, ...]) -> int:
    """How many partitions the log had; it says so itself from here on. `said`: what the orders in the books say that it
    has grown to, and from. Raises NotNow, WrongCount, RedisError."""
    known, least = await count_of(redis), max((await at_least(connection), *said))
    if known is not None and known.number >= least:
        return agreed(known, settings)
    had = Count(said[0], said[1:]) if said else Count(settings.partitions)
    number = agreed(had, settings)
    if number < least:
        raise NotNow(
            f"the books have events of {least} partitions: set SKELDIR_PARTITIONS to the number that the log had "
            f"(it was no less)"
        )
    if known is not None:
        await _nothing_came(redis, known.number)
    await redis.set(PARTITIONS, had.encode())
    for one in range(number):
        await redis.delete(Partition(one).fence)
    return number


async def _nothing_came(redis: Redis, started_with: int) -> None:
    """Since services started on the empty log with another number: what they accepted is in the wrong places."""
    for number in range(started_with):
        if await redis.xlen(Partition(number).tasks):
            raise NotNow(
                f"services started on the empty log with {started_with} partitions, and accepted tasks: "
                "empty the log again (FLUSHALL) and restore; who submitted them has to do so again"
            )
