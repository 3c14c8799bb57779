"""What must be so before a log is grown."""

from __future__ import annotations

from typing import Any

from services.gateway.capacity import is_full
from shared.streams.client import LogClient
from shared.streams.direct import FOLLOWS
from shared.streams.partition_count import Count, count_of, recorded

SERVICES = ("gateway-", "policy-", "executor-", "ledger-")


class CannotGrow(Exception):
    """The log is as it was; the text says why, and what to do."""


async def count_to_grow(redis: LogClient) -> Count:
    """How many partitions the log says that it has. Raises CannotGrow where it does not say so."""
    found = await recorded(redis)
    if found is None:
        known = await count_of(redis)
        what = "is new: set SKELDIR_PARTITIONS" if known is None else "has no record of its partitions"
        raise CannotGrow(f"the log {what}: start the services of this release first")
    return found


async def nobody_is_older(redis: LogClient) -> None:
    """A service that does not follow the log would go on writing where tenants were. Servers before Redis 7.2 do not
    tell."""
    for clients in await redis.on_every_server("CLIENT LIST"):
        for one in clients:
            name, library = one.get("name", ""), one.get("lib-name", "")
            if name.startswith(SERVICES) and library and FOLLOWS[0] not in library:
                raise CannotGrow(
                    f"{name} is of an older release, which does not follow a log that grows: upgrade it first"
                )


async def there_is_memory(redis: LogClient) -> None:
    """Copies need some. Raises CannotGrow."""
    memory: list[Any] = await redis.on_every_server("INFO", "memory")
    if any(map(is_full, memory)):
        raise CannotGrow("the log server's memory is nearly full, and copies need some")
