"""Requests that the log has forgotten and the books remember: an ended task's record leaves the log after a time, and
its request id must not run again then. Asked for the ids that callers choose: no other can ever come back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from uuid import UUID

import asyncpg
import structlog

from services.gateway.history import History
from services.gateway.metrics import UNRECOGNISED

MAX_BATCH = 500
# Without the books the door stays open: each submission would otherwise wait for the time-out of a dead server.
REST_S = 5.0

log = structlog.get_logger(__name__)


class Recognition:
    """Asks the books about tasks; those of concurrent callers in one query."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._waiting: deque[tuple[UUID, asyncio.Future[str | None]]] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._rests_until = 0.0

    async def fingerprint(self, task_id: UUID) -> str | None:
        """What an ended task was, if the books know it; None also where they cannot be read."""
        if not self._history.is_there:
            return None
        if time.monotonic() < self._rests_until:
            UNRECOGNISED.inc()
            return None
        reply: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((task_id, reply))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await reply

    async def _ask(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            found: dict[UUID, str] = {}
            try:
                found = await self._history.fingerprints([task_id for task_id, _ in batch])
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                log.warning("the books cannot be asked whether a request is an old one", error=str(error))
                self._rests_until = time.monotonic() + REST_S
                UNRECOGNISED.inc(len(batch))
            for task_id, reply in batch:
                if not reply.done():
                    reply.set_result(found.get(task_id))
