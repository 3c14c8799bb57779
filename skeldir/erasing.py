"""A user's texts where the log's server has them: results of ended tasks, cached answers, entries set aside.

The books are the ledger's: it destroys the key when it takes the order in.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from pydantic import ValidationError
from redis.asyncio import Redis

from shared.events.results import TaskResult
from shared.partitions import DEAD_LETTERS, Partition

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Erased:
    """How many results were emptied, cached answers and dead letters removed."""

    results: int
    cached_answers: int
    dead_letters: int


async def erase_from_log(redis: Redis, partition: Partition, tenant_id: UUID, user_id: UUID) -> Erased:
    """Remove them. What is under way is not touched: it ends, and its end is newer than the order."""
    results = await _empty_results(redis, partition, tenant_id, user_id)
    cached = await _drop_cached(redis, partition, tenant_id)
    return Erased(results, cached, await _drop_letters(redis, user_id))


async def _empty_results(redis: Redis, partition: Partition, tenant_id: UUID, user_id: UUID) -> int:
    count = 0
    wanted = [str(tenant_id).encode(), str(user_id).encode()]
    async for key in redis.scan_iter(match=f"{partition.tag}:task:*", count=PAGE):
        *owner, stored = await redis.hmget(key, ["tenant", "user", "result"])
        if owner != wanted or not stored:
            continue
        try:
            result = TaskResult.model_validate_json(stored)
        except ValidationError:  # of another release: without its result it is asked for in the books
            await redis.hdel(key, "result")
        else:
            emptied = result.model_copy(update={"output_text": None, "completion": None})
            await redis.hset(key, "result", emptied.model_dump_json())
        count += 1
    return count


async def _drop_cached(redis: Redis, partition: Partition, tenant_id: UUID) -> int:
    """All of the tenant's: an answer's key does not say whose it is, and to ask again costs only money."""
    index = partition.cached(tenant_id)
    keys = await redis.zrange(index, 0, -1)
    for first in range(0, len(keys), PAGE):
        await redis.delete(*keys[first : first + PAGE])
    await redis.delete(index, partition.cached_sizes(tenant_id))
    return len(keys)


async def _drop_letters(redis: Redis, user_id: UUID) -> int:
    count, after = 0, "-"
    name = str(user_id).encode()
    while page := await redis.xrange(DEAD_LETTERS, min=after, count=PAGE):
        about = [entry_id for entry_id, fields in page if name in (fields.get(b"data") or b"")]
        if about:
            count += await redis.xdel(DEAD_LETTERS, *about)
        after = f"({page[-1][0].decode()}"
    return count
