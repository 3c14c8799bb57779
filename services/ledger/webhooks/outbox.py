"""The queue of messages to webhooks: filled in the transaction that takes the events into the books, so once each.

    waiting --claimed, sent--> gone from the table
    waiting --claimed, failed--> waiting, due later --too old, or refused for good--> given up, with the reason

Bounded for each webhook: what would come on top is counted in `webhook_gaps`, by the minute. The log is never held up.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import structlog

from services.ledger.intake import Record
from services.ledger.metrics import WEBHOOKS
from services.ledger.sessions import Connection
from services.ledger.webhooks.messages import Message, messages_of
from shared.control_state import Webhook
from shared.streams.control_reader import ControlReader

LOOK_S = 0.05

log = structlog.get_logger(__name__)

_ROOM = """
SELECT hook.id AS webhook_id,
  (SELECT count(*) FROM webhook_messages AS old WHERE old.webhook_id = hook.id AND old.given_up_at IS NULL) AS waiting,
  EXISTS (SELECT FROM webhook_ends AS past WHERE past.webhook_id = hook.id AND past.set_ms = hook.set_ms) AS ended
FROM unnest($1::text[], $2::bigint[]) AS hook (id, set_ms) ORDER BY 1
"""
_ADD = """
INSERT INTO webhook_messages (webhook_id, message_id, of_tenant, type, body)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING
"""
_GAP = """
INSERT INTO webhook_gaps AS gap (webhook_id, minute, skipped) VALUES ($1, date_trunc('minute', now()), $2)
ON CONFLICT (webhook_id, minute) DO UPDATE SET skipped = gap.skipped + excluded.skipped
"""


class Outbox:
    """Puts messages into the queue."""

    def __init__(self, control: ControlReader, max_waiting: int) -> None:
        self._control = control
        self._max_waiting = max_waiting
        self._added = False
        self.filled = asyncio.Event()

    async def ready(self) -> None:
        """Return once the webhooks are known: what is taken into the books before that would be told to nobody."""
        while self._control.is_stale:
            await asyncio.sleep(LOOK_S)

    def committed(self) -> None:
        """What was added is in the books: the sender may look."""
        if self._added:
            self._added = False
            self.filled.set()

    async def add(self, connection: Connection, records: Sequence[Record]) -> None:
        """Within the caller's transaction: what webhooks are told of these events, which are new in the books."""
        hooks = self._control.state.webhooks
        if not hooks:
            return
        by_hook: dict[str, list[Message]] = defaultdict(list)
        for record in records:
            for message in _messages(record, list(hooks.values())):
                by_hook[message.webhook_id].append(message)
        if not by_hook:
            return
        names = sorted(by_hook)  # in one order, so that writers who count gaps wait for each other in one direction
        messages: list[Message] = []
        for row in await connection.fetch(_ROOM, names, [hooks[name].since_ms for name in names]):
            if row["ended"]:
                continue  # it said that it is no more, and has not been set again
            wanted = by_hook[row["webhook_id"]]
            room = max(0, self._max_waiting - row["waiting"])
            messages += wanted[:room]
            if len(wanted) > room:
                await connection.execute(_GAP, row["webhook_id"], len(wanted) - room)
                WEBHOOKS.labels("skipped").inc(len(wanted) - room)
        if messages:
            columns = [[getattr(message, name) for message in messages] for name in Message.__slots__]
            await connection.execute(_ADD, *columns)
            self._added = True


def _messages(record: Record, hooks: list[Webhook]) -> list[Message]:
    try:
        return messages_of(record, hooks)
    except (ValueError, KeyError, TypeError) as error:
        # It is in the books: that no webhook can be told of it must not keep it out of them.
        log.error("an event cannot be told", event=str(record.id), type=record.type, error=type(error).__name__)
        return []
