"""Publishing an order on the control stream."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from shared.partitions import CONTROL
from shared.streams.script import script


async def publish_order(redis: Redis, data: bytes | str) -> str:
    """Append the order; its entry id. Also to a server whose memory is full. Raises RedisError."""
    try:
        entry_id: bytes = await redis.xadd(CONTROL, {"data": data})
    except OutOfMemoryError:
        entry_id = await script(redis, "shared.streams", "order")(keys=[CONTROL], args=[data])
    return entry_id.decode()
