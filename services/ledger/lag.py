"""How far each reader is behind the log, in time: what an operator feels, whatever the throughput."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.ledger.trim import EXECUTOR_GROUP, NOTHING
from shared.events.control import entry_ms
from shared.partitions import Partition


async def lags(redis: Redis, partitions: int, now_ms: int) -> list[dict[str, Any]]:
    """For each partition: the age of the oldest entry that policy, executors and ledger have not read, in seconds.

    `in_flight`: decisions that executors hold; `oldest_s`: the age of the oldest of them.
    """
    return list(await asyncio.gather(*(_of(redis, Partition(number), now_ms) for number in range(partitions))))


async def _of(redis: Redis, partition: Partition, now_ms: int) -> dict[str, Any]:
    policy: Any = await redis.hgetall(partition.policy)
    ledger: Any = await redis.hgetall(partition.ledger)
    delivered, in_flight, oldest = await _executors(redis, partition)
    streams = {"tasks": partition.tasks, "decisions": partition.decisions, "outcomes": partition.outcomes}

    async def age(stream: str, after: bytes) -> float:
        unread: Any = await redis.xrange(streams[stream], min=f"({after.decode()}", count=1)
        return max(0.0, (now_ms - entry_ms(unread[0][0])) / 1000) if unread else 0.0

    nothing = NOTHING.encode()
    ages = await asyncio.gather(
        *(age(stream, policy.get(stream.encode(), nothing)) for stream in ("tasks", "outcomes")),
        age("decisions", delivered),
        *(age(stream, ledger.get(stream.encode(), nothing)) for stream in streams),
    )
    return {
        "partition": partition.number,
        "policy_s": round(max(ages[:2]), 3),
        "executor_s": round(ages[2], 3),
        "ledger_s": round(max(ages[3:]), 3),
        "in_flight": in_flight,
        "oldest_s": 0.0 if oldest is None else round(max(0.0, (now_ms - entry_ms(oldest)) / 1000), 3),
    }


async def _executors(redis: Redis, partition: Partition) -> tuple[bytes, int, bytes | None]:
    """The last decision that was handed to an executor, how many they hold, and the oldest of those."""
    try:
        groups: Any = await redis.xinfo_groups(partition.decisions)
    except ResponseError:
        return NOTHING.encode(), 0, None
    for group in groups:
        if group["name"] == EXECUTOR_GROUP:
            pending: Any = await redis.xpending(partition.decisions, EXECUTOR_GROUP) if group["pending"] else None
            return bytes(group["last-delivered-id"]), int(group["pending"]), pending and pending["min"]
    return NOTHING.encode(), 0, None
