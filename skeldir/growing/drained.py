"""Whether all that a partition accepted has been worked off: decided, ended, settled, replied to, in the books."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.ledger.trim import EXECUTOR_GROUP
from shared.partitions import Partition

NOTHING = b"0-0"


async def left_in(redis: Redis, partition: Partition) -> str | None:
    """What is left to do there, the first that is found; None: nothing. Raises RedisError."""
    policy, ledger, replies = [
        await redis.hgetall(key) for key in (partition.policy, partition.ledger, partition.replies)
    ]
    streams = {b"tasks": partition.tasks, b"decisions": partition.decisions, b"outcomes": partition.outcomes}
    for name in (b"tasks", b"outcomes"):
        if await _more(redis, streams[name], policy.get(name, NOTHING)):
            return f"policy has not taken in all {name.decode()}"
    if count := await redis.hlen(partition.parked):
        return f"{count} tasks wait for an outcome"
    if count := await redis.hlen(partition.aside):
        return f"{count} entries are set aside: see `skeldir dead-letters list`"
    if found := await _executors(redis, partition):
        return found
    for name in replies:
        if await _more(redis, streams[name], replies[name]):
            return "results wait for their reply"
    for name, stream in streams.items():
        if await _more(redis, stream, ledger.get(name, NOTHING)):
            return f"the ledger has not taken in all {name.decode()}"
    return None


async def _executors(redis: Redis, partition: Partition) -> str | None:
    try:
        groups: Any = await redis.xinfo_groups(partition.decisions)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        groups = []
    delivered, pending = NOTHING, 0
    for group in groups:
        if group["name"] == EXECUTOR_GROUP:
            delivered, pending = group["last-delivered-id"], int(group["pending"])
    if pending:
        return f"executors have not ended {pending} decisions"
    if await _more(redis, partition.decisions, delivered):
        return "executors have not read all decisions"
    return None


async def _more(redis: Redis, stream: str, after: bytes) -> bool:
    return bool(await redis.xrange(stream, min=f"({after.decode()}", count=1))
