"""Sends what waits for webhooks: each webhook on its own, so that a slow one delays nobody else. At least once.

A message is claimed for a while, sent, and then removed or made due later; what a dead sender had claimed is due again
by itself. Messages to one webhook overtake each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from datetime import UTC, datetime

import asyncpg
import structlog

from services.ledger.metrics import WEBHOOKS
from services.ledger.sessions import Pool
from services.ledger.webhooks.outbox import Outbox
from services.ledger.webhooks.post import post
from services.ledger.webhooks.retry import Answer, Step, next_step
from shared.control_state import Webhook
from shared.settings import Settings
from shared.streams.control_reader import ControlReader
from shared.webhook_signing import headers, secret_of

LOOK_S = 0.5
RETRY_S = 1.0
SWEEP_S = 60.0
# So many of one webhook's messages are under way at once, and so many webhooks' of this process.
AT_ONCE = 4
MAX_BUSY = 256
KEPT_DAYS = 7

log = structlog.get_logger(__name__)

_DUE = """
SELECT hook.id FROM unnest($1::text[]) AS hook (id) WHERE EXISTS (
  SELECT FROM webhook_messages WHERE webhook_id = hook.id AND given_up_at IS NULL AND due_at <= now())
"""
# Of another tenant's, when the id was set anew, nothing is sent.
_CLAIM = """
UPDATE webhook_messages AS message SET due_at = now() + make_interval(secs => $3), attempts = attempts + 1
FROM (SELECT message_id FROM webhook_messages WHERE webhook_id = $1 AND given_up_at IS NULL AND due_at <= now()
        AND ($2::uuid IS NULL OR of_tenant = $2) ORDER BY due_at LIMIT $4 FOR UPDATE SKIP LOCKED) AS due
WHERE message.webhook_id = $1 AND message.message_id = due.message_id
RETURNING message.message_id, body, attempts, extract(epoch FROM now() - created_at)::float8 AS age_s
"""
_DELIVERED = "DELETE FROM webhook_messages WHERE webhook_id = $1 AND message_id = $2"
_AGAIN = """
UPDATE webhook_messages SET due_at = now() + make_interval(secs => $4), last_problem = $3
WHERE webhook_id = $1 AND message_id = $2
"""
_GIVEN_UP = (
    "UPDATE webhook_messages SET given_up_at = now(), last_problem = $3 WHERE webhook_id = $1 AND message_id = $2"
)
_ENDED = """
WITH ended AS (INSERT INTO webhook_ends (webhook_id, set_ms) VALUES ($1, $2)
  ON CONFLICT (webhook_id) DO UPDATE SET set_ms = excluded.set_ms, ended_at = now())
UPDATE webhook_messages SET given_up_at = now(), last_problem = $3 WHERE webhook_id = $1 AND given_up_at IS NULL
"""
_SWEEP = """
DELETE FROM webhook_messages AS message WHERE given_up_at < now() - make_interval(days => $1)
  OR (given_up_at IS NULL AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::uuid[]) AS hook (id, tenant)
      WHERE hook.id = message.webhook_id AND (hook.tenant IS NULL OR hook.tenant = message.of_tenant)))
"""
_SWEEP_GAPS = "DELETE FROM webhook_gaps WHERE minute < now() - make_interval(days => $1)"


class Sender:
    """Sends, until cancelled. Without a key it sends nothing, and what is queued waits."""

    def __init__(self, pool: Pool, control: ControlReader, outbox: Outbox, settings: Settings) -> None:
        self._pool = pool
        self._control = control
        self._outbox = outbox
        self._settings = settings
        self._key = None if settings.webhook_secret_key is None else settings.webhook_secret_key.get_secret_value()
        self._timeout_s = settings.webhook_timeout_ms / 1000
        self._said = False
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled; a lost database is waited for."""
        sweep_at = time.monotonic() + SWEEP_S
        try:
            while True:
                try:
                    await self._begin()
                    if time.monotonic() >= sweep_at:
                        await self.sweep()
                        sweep_at = time.monotonic() + SWEEP_S
                except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                    log.warning("webhooks wait", problem=type(error).__name__)
                    await asyncio.sleep(RETRY_S)
                await self._until_wanted()
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def _until_wanted(self) -> None:
        with contextlib.suppress(TimeoutError):  # messages become due by themselves, and another process queues some
            async with asyncio.timeout(LOOK_S):
                await self._outbox.filled.wait()
        self._outbox.filled.clear()

    async def _begin(self) -> None:
        """Begin with each webhook that something is due for."""
        self._busy = {name: task for name, task in self._busy.items() if not task.done()}
        hooks = [name for name in self._control.state.webhooks if name not in self._busy]
        if not hooks:
            return
        if self._key is None:
            if not self._said:
                log.error("webhooks wait", problem="SKELDIR_WEBHOOK_SECRET_KEY is not set")
            self._said = True
            return
        async with self._pool.acquire() as connection:
            due = [row["id"] for row in await connection.fetch(_DUE, hooks)]
        for name in due[: MAX_BUSY - len(self._busy)]:
            self._busy[name] = asyncio.create_task(self._serve(name))

    async def _serve(self, webhook_id: str) -> None:
        """Send what is due for one webhook."""
        try:
            while (hook := self._control.state.webhooks.get(webhook_id)) is not None:
                async with self._pool.acquire() as connection:
                    held_s = 2 * self._timeout_s
                    rows = await connection.fetch(_CLAIM, webhook_id, hook.tenant_id, held_s, AT_ONCE)
                if not rows:
                    return
                await asyncio.gather(*(self._send(hook, row) for row in rows))
        except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            log.warning("a webhook waits", webhook=webhook_id, problem=type(error).__name__)

    async def _send(self, hook: Webhook, row: asyncpg.Record) -> None:
        assert self._key is not None, "nothing is begun without it"
        body, message_id = row["body"].encode(), row["message_id"]
        signed = headers(secret_of(self._key, hook.webhook_id), f"msg_{message_id}", int(time.time()), body)
        allow_private = self._settings.webhooks_allow_private
        answer = await post(hook.url, signed, body, timeout_s=self._timeout_s, allow_private=allow_private)
        step = self._step(answer, row)
        WEBHOOKS.labels(step.what).inc()
        if step.what in ("given_up", "ended"):
            log.warning("webhook given up", webhook=hook.webhook_id, message=str(message_id), problem=step.problem)
        async with self._pool.acquire() as connection:
            match step.what:
                case "delivered":
                    await connection.execute(_DELIVERED, hook.webhook_id, message_id)
                case "again":
                    await connection.execute(_AGAIN, hook.webhook_id, message_id, step.problem, step.pause_s)
                case "given_up":
                    await connection.execute(_GIVEN_UP, hook.webhook_id, message_id, step.problem)
                case "ended":
                    await connection.execute(_ENDED, hook.webhook_id, hook.since_ms, step.problem)

    def _step(self, answer: Answer, row: asyncpg.Record) -> Step:
        return next_step(
            answer,
            attempts=row["attempts"],
            age_s=row["age_s"],
            give_up_s=self._settings.webhook_give_up_minutes * 60,
            first_pause_s=self._settings.webhook_retry_ms / 1000,
            chance=random.random(),  # noqa: S311 - spreads retries, keeps no secret
            now=datetime.now(UTC),
        )

    async def sweep(self) -> None:
        """Remove what is for nobody any more, and what was given up long ago. Not while orders cannot be read."""
        if self._control.is_stale:
            return
        hooks = list(self._control.state.webhooks.values())
        async with self._pool.acquire() as connection:
            names, tenants = [hook.webhook_id for hook in hooks], [hook.tenant_id for hook in hooks]
            await connection.execute(_SWEEP, KEPT_DAYS, names, tenants)
            await connection.execute(
                "DELETE FROM webhook_gaps WHERE minute < now() - make_interval(days => $1)", KEPT_DAYS
            )
