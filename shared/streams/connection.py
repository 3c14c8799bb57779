"""Connections to the log server."""

from __future__ import annotations

import asyncio
from importlib import resources
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

# Longer than any BLOCK we use, shorter than a person's patience: a dead peer is noticed within it.
SOCKET_TIMEOUT_S = 5.0
BLOCK_MS = 1000


class CancellableRedis(Redis):
    """A client whose commands end when their task is cancelled, on every version of Python.

    The client library sends by `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that arrives in the
    moment when the sending is done: a worker told to stop would go on reading for ever.
    """

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        reply = await super().execute_command(*args, **options)
        if task and task.cancelling() > before:
            raise asyncio.CancelledError
        return reply


def connect(url: str, *, client_name: str, max_connections: int = 64) -> Redis:
    """A client that never repeats a command by itself: a silent retry of an append would leave two entries."""
    return CancellableRedis.from_url(
        url,
        client_name=client_name,
        max_connections=max_connections,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        # While it may get these (Redis Enterprise's), the library does not look whether an idle connection is still
        # open: after a restart of the server each of them would fail once, however much later it is used.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def script(redis: Redis, package: str, name: str) -> AsyncScript:
    """The server-side script `name`.lua that lies in `package`."""
    source = resources.files(package).joinpath(f"{name}.lua").read_text()
    registered: Any = redis.register_script(source)
    return registered
