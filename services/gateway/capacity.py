"""How full the log server's memory is, so that new work is refused long before the server refuses to write."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.gateway.metrics import LOG_MEMORY

LOOK_S = 0.25
# What is left above it is for the work that was accepted already, and for orders.
DOOR_SHARE = 0.85

log = structlog.get_logger(__name__)


class Capacity:
    """Looks at the server's memory. `problem` says why no new work is taken; None while it is."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.problem: str | None = None

    async def follow(self) -> None:
        """Until cancelled. While the server cannot be asked, the last answer holds: nothing can be accepted anyhow."""
        while True:
            try:
                used = max(map(share_of, await self._redis.on_every_server("INFO", "memory")))
                LOG_MEMORY.set(used)
                full = used > DOOR_SHARE
                self.problem = "the log server's memory is nearly full: the services are behind" if full else None
            except RedisError as error:
                log.debug("memory not known", error=str(error))
            await asyncio.sleep(LOOK_S)


def is_full(memory: Mapping[str, Any]) -> bool:
    """Whether the server (INFO memory) has used its share."""
    return share_of(memory) > DOOR_SHARE


def share_of(memory: Mapping[str, Any]) -> float:
    """How much of its bound the server (INFO memory) uses; 0: not known. Without a `maxmemory` it is the machine."""
    bound = int(memory.get("maxmemory", 0)) or int(memory.get("total_system_memory", 0))
    return int(memory.get("used_memory", 0)) / bound if bound else 0.0
