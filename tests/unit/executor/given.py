"""Deliveries for the pure tests."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from services.executor.delivery import Delivery
from shared.events.decisions import BreakerState, Reservation, TaskAllowed
from shared.events.envelope import new
from shared.events.tasks import Task, TaskType
from shared.partitions import Partition

TENANT = UUID("11111111-1111-4111-8111-111111111111")
USER = UUID("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
NOW_MS = 1_795_000_000_000


def delivery(*, cache_only: bool = False, expires_at_ms: int = NOW_MS + 60_000, **fields: Any) -> Delivery:
    """An allowed task as it reaches the executor."""
    known: dict[str, Any] = {
        "task_id": uuid4(),
        "request_id": "r",
        "task_type": TaskType.ROUTE,
        "provider": "stub",
        "model": "model",
        "prompt": {},
        "fingerprint": "f",
    }
    decision_id = uuid4()
    allowed = TaskAllowed(
        task=Task(**{**known, **fields}),
        reservation=Reservation(reservation_id=decision_id, amount=700, hour="2026-11-23T16", month="2026-11"),
        balances=[],
        expires_at_ms=expires_at_ms,
        timeout_ms=10_000,
        cache_only=cache_only,
        breaker_state=BreakerState.CLOSED,
        control_position="0-0",
    )
    event = new(allowed, event_id=decision_id, source="/test", subject=str(allowed.task.task_id), now_ms=NOW_MS)
    return Delivery(Partition(0), "1-1", event, allowed, TENANT, USER)
