"""The two streams that anybody may write to: tasks on `skeldir:inbox`, and orders on `skeldir:control`."""

from __future__ import annotations

import os
from uuid import uuid5

import structlog
from opentelemetry.trace import SpanKind

from services.gateway.acceptance import Acceptor
from services.gateway.capacity import Capacity
from services.gateway.group_reader import NotNow, Unacceptable, field
from services.gateway.metrics import SUBMISSIONS
from services.gateway.submission import Invalid, TaskRequest, parse, submission
from shared import tracing
from shared.clock import Clock
from shared.events.control import InvalidControl, parse_control
from shared.events.envelope import NAMESPACE, Envelope
from shared.logs import about
from shared.partitions import INBOX
from shared.settings import Settings
from shared.streams.control_reader import ControlReader

# With memory nearly full the inbox is still worked off, as far as the services keep up: its entries are what fills it,
# perhaps, and one that is moved leaves it. So many entries may then be in a partition's log.
MAX_BACKLOG_WITHOUT_MEMORY = 1000


class Inbox:
    """Takes tasks from the inbox stream, as the HTTP door takes them from requests."""

    def __init__(
        self, acceptor: Acceptor, capacity: Capacity, control: ControlReader, clock: Clock, settings: Settings
    ) -> None:
        self._acceptor = acceptor
        self._capacity = capacity
        self._control = control
        self._clock = clock
        self._settings = settings

    async def take(self, entry_id: str, fields: dict[bytes, bytes]) -> None:
        """Accept one entry. Raises Unacceptable, RedisError; NotNow while its partition is full, or orders unknown."""
        with tracing.request("submit from the inbox", None, SpanKind.CONSUMER) as traceparent:
            await self._take(entry_id, fields, traceparent)

    async def _take(self, entry_id: str, fields: dict[bytes, bytes], traceparent: str | None) -> None:
        if self._control.is_stale:
            raise NotNow  # what may be stored of the task is not known
        try:
            event, request = self._submission(entry_id, fields, traceparent)
        except Invalid as error:
            raise Unacceptable(str(error)) from error
        structlog.contextvars.bind_contextvars(**about(event))  # entries are taken each in its own asyncio task
        most = MAX_BACKLOG_WITHOUT_MEMORY if self._capacity.problem else None
        accepted = await self._acceptor.accept(
            event, named=request.request_id is not None, max_backlog=most, reply_to=request.reply_to
        )
        status = accepted.status
        SUBMISSIONS.labels("inbox", status).inc()
        if status in ("full", "closed", "elsewhere"):
            raise NotNow  # the inbox itself is the queue: what is not taken stays in it
        if status == "conflict":
            raise Unacceptable("idempotency_conflict: the request id belongs to another body or user")

    def _submission(
        self, entry_id: str, fields: dict[bytes, bytes], traceparent: str | None
    ) -> tuple[Envelope, TaskRequest]:
        request = parse(field(fields, b"data"), self._settings.max_body_bytes, self._settings.max_body_depth)
        if request.tenant_id is None or request.user_id is None:
            raise Invalid("tenant_id and user_id are required on the inbox")
        event = submission(
            request,
            tenant_id=request.tenant_id,
            user_id=request.user_id,
            # The entry's id stands for a missing request id: a second delivery is the same request.
            request_id=request.request_id or f"inbox-{uuid5(NAMESPACE, f'{INBOX}/{entry_id}')}",
            origin="inbox",
            traceparent=traceparent,
            now_ms=self._clock.now_ms(),
            settings=self._settings,
            environ=os.environ,
            privacy=self._control.state.privacy_of(request.tenant_id),
        )
        return event, request


async def check_order(_: str, fields: dict[bytes, bytes]) -> None:
    """Say that what is published as an order is none. Every service ignores such an entry by itself."""
    try:
        parse_control(fields.get(b"data"))
    except InvalidControl as error:
        raise Unacceptable(str(error)) from error
