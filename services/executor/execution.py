"""What may be done with a delivered decision, now. Pure: asked on its delivery, and again right before the call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from services.executor.delivery import Delivery
from shared.control_state import ControlState
from shared.events.decisions import BlockReason


@dataclass(frozen=True, slots=True)
class Stop:
    """The task must end without a call."""

    reason: str
    explanation: dict[str, Any] = field(default_factory=dict)


def expired(delivery: Delivery, now_ms: int) -> bool:
    """Whether the permission is too old to use: what it was based on may no longer hold."""
    return now_ms >= delivery.allowed.expires_at_ms


def stop_for(delivery: Delivery, control: ControlState, *, stale: bool, now_ms: int) -> Stop | None:
    """Why no call may start for this task now, though policy allowed it: an order came since, or might have."""
    if stale:
        return Stop(BlockReason.CONTROL_STALE, {"problem": "the control stream could not be read in time"})
    task = delivery.allowed.task
    switch = control.switch_for(delivery.tenant_id, delivery.user_id, task, now_ms)
    if switch is not None:
        seen = {"reason": switch.reason, "actor": switch.actor, "since_ms": switch.since_ms}
        return Stop(BlockReason.KILL_SWITCH, seen)
    shutoff = control.shutoff_for(delivery.tenant_id, delivery.user_id, now_ms)
    if shutoff is not None:
        return Stop(shutoff.reason, {"actor": shutoff.actor, "until_ms": shutoff.until_ms})
    return None
