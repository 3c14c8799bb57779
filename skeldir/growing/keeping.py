"""Keeping what ends by itself: a lease, a closed door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog
from redis.exceptions import RedisError

KEEP_S = 1.0

log = structlog.get_logger(__name__)


@asynccontextmanager
async def kept(keep: Callable[[], Coroutine[Any, Any, Any]]) -> AsyncIterator[None]:
    """Call `keep` every second while the block runs; where it fails, the block is cancelled and raises its error."""
    block = asyncio.current_task()
    assert block is not None
    failed: list[Exception] = []

    async def again() -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            try:
                await keep()
            except RedisError as error:
                log.warning("could not keep the log closed", error=str(error))
            except Exception as error:
                failed.append(error)
                block.cancel()
                return

    keeping = asyncio.create_task(again())
    try:
        yield
    except asyncio.CancelledError:
        if failed:
            block.uncancel()
            raise failed[0] from None
        raise
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
