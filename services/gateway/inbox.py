"""The two streams that anybody may write to: tasks on `skeldir:inbox`, and orders on `skeldir:control`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from uuid import uuid5

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.gateway.acceptance import Acceptor
from services.gateway.submission import Invalid, parse, submission
from shared.clock import Clock
from shared.events.control import InvalidControl, parse_control
from shared.events.envelope import NAMESPACE, Envelope
from shared.partitions import CONTROL, INBOX
from shared.settings import Settings
from shared.streams.connection import BLOCK_MS
from shared.streams.consumer_group import ConsumerGroup
from shared.streams.dead_letters import dead_letter
from shared.streams.read import Entry

RETRY_S = 0.1
FULL_S = 0.25

log = structlog.get_logger(__name__)

Handle = Callable[[list[Entry]], Awaitable[list[str]]]


class GroupReader:
    """Reads a stream as one of a group; what its handler has dealt with is acknowledged, the rest comes again."""

    def __init__(self, group: ConsumerGroup, handle: Handle, settings: Settings) -> None:
        self._group = group
        self._handle = handle
        self._batch = settings.batch_size
        self._claim_idle_ms = settings.executor_claim_idle_ms
        self.problem: str | None = "has not read yet"

    async def run(self) -> None:
        """Until cancelled; through lost connections and lost groups."""
        while True:
            try:
                await self._group.ensure()
                while True:
                    # First what consumers that went silent have left, this gateway's last life among them.
                    await self._deal_with(await self._group.claim(self._claim_idle_ms))
                    await self._deal_with(await self._group.read(self._batch, BLOCK_MS))
                    self.problem = None
            except RedisError as error:
                self.problem = f"the log cannot be read: {error}"
                log.warning("lost the log", error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _deal_with(self, entries: list[Entry]) -> None:
        if entries:
            await self._group.acknowledge(await self._handle(entries))


class Inbox:
    """Takes tasks from the inbox stream, as the HTTP door takes them from requests."""

    def __init__(self, redis: Redis, acceptor: Acceptor, clock: Clock, settings: Settings) -> None:
        self._redis = redis
        self._acceptor = acceptor
        self._clock = clock
        self._settings = settings

    async def handle(self, entries: list[Entry]) -> list[str]:
        """Accept each entry or set it aside; the ids of those dealt with."""
        return list(await asyncio.gather(*(self._take(entry) for entry in entries)))

    async def _take(self, entry: Entry) -> str:
        entry_id = entry[0].decode()
        try:
            event = self._submission(entry_id, entry[1])
        except Invalid as error:
            await self._set_aside(entry, str(error))
            return entry_id
        while (accepted := await self._acceptor.accept(event)).status == "full":
            await asyncio.sleep(FULL_S)  # the inbox itself is the queue: what is not taken stays in it
        if accepted.status == "conflict":
            await self._set_aside(entry, "idempotency_conflict: the request id belongs to another body or user")
        return entry_id

    def _submission(self, entry_id: str, fields: dict[bytes, bytes]) -> Envelope:
        data = fields.get(b"data")
        if data is None:
            raise Invalid("the entry has no field `data`")
        request = parse(data, self._settings.max_body_bytes, self._settings.max_body_depth)
        if request.tenant_id is None or request.user_id is None:
            raise Invalid("tenant_id and user_id are required on the inbox")
        return submission(
            request,
            tenant_id=request.tenant_id,
            user_id=request.user_id,
            # The entry's id stands for a missing request id: a second delivery is the same request.
            request_id=request.request_id or f"inbox-{uuid5(NAMESPACE, f'{INBOX}/{entry_id}')}",
            origin="inbox",
            now_ms=self._clock.now_ms(),
            settings=self._settings,
            environ=os.environ,
        )

    async def _set_aside(self, entry: Entry, reason: str) -> None:
        await self._redis.execute_command(*dead_letter(INBOX, entry[0], entry[1], reason))


class ControlCheck:
    """Sets aside what is published as an order and is none. Every service ignores such an entry by itself."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def handle(self, entries: list[Entry]) -> list[str]:
        """Check each entry; the ids of all."""
        for entry_id, fields in entries:
            try:
                parse_control(fields.get(b"data"))
            except InvalidControl as error:
                await self._redis.execute_command(*dead_letter(CONTROL, entry_id, fields, str(error)))
        return [entry_id.decode() for entry_id, _ in entries]
