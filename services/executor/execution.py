"""What may be done with a delivered decision, now. Pure: the record, the orders and the time come in as values.

delivered --before--> Over | Lost | Untouched --permission--> Go | Stop | Expired --call--> answer or failure
                                                    ^--------------- asked again right before each call
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from services.executor.delivery import Delivery
from services.executor.providers.protocol import ProviderFailure
from shared.control_state import ControlState, order_of
from shared.events.decisions import BlockReason, BreakerState

FIRST_RETRY_S = 0.05
# The executor does not know the provider, or has no key for it: another may have what this one lacks.
_UNAVAILABLE = frozenset({"UnknownProvider", "MissingCredentials"})


@dataclass(frozen=True, slots=True)
class Record:
    """What the task's record says. `lost`: how many attempts ended nobody knows how, and were followed by another."""

    decision: str = ""
    state: str = ""
    owner: str = ""
    lost: int = 0
    model: str = ""
    """The alternative that the last attempt asked, `provider:model`; empty where it was the choice itself."""


@dataclass(frozen=True, slots=True)
class Over:
    """The decision was worked off, or another has taken its place: nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Lost:
    """`owner` began the call and is gone: nobody knows whether money went. `again`: the task may be decided anew."""

    owner: str
    again: bool


@dataclass(frozen=True, slots=True)
class Untouched:
    """No call was begun."""


def before(delivery: Delivery, record: Record, max_attempts: int) -> Over | Lost | Untouched:
    """What became of a decision while others had it."""
    if record.decision != str(delivery.decision_id) or record.state in ("ended", "expired"):
        return Over()
    if record.state == "attempting":
        safe = delivery.allowed.task.retry_safe and record.lost + 1 < max_attempts
        return Lost(record.owner, again=safe)
    return Untouched()


@dataclass(frozen=True, slots=True)
class Go:
    """A call may start."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The task must end without a call."""

    reason: str
    explanation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expired:
    """The permission is too old: what it was based on may no longer hold. Policy decides again."""


Permission = Go | Stop | Expired


def permission(delivery: Delivery, control: ControlState, *, stale: bool, now_ms: int) -> Permission:
    """Whether a call may start for this task now, though policy allowed it: an order came since, or might have."""
    if now_ms >= delivery.allowed.expires_at_ms:
        return Expired()
    return stopped(delivery, control, stale=stale, now_ms=now_ms) or Go()


def stopped(delivery: Delivery, control: ControlState, *, stale: bool, now_ms: int) -> Stop | None:
    """What stops this task now, also while its answer is streamed; None where nothing does."""
    if stale:
        return Stop(BlockReason.CONTROL_STALE, {"problem": "the control stream could not be read in time"})
    switch = control.switch_for(delivery.tenant_id, delivery.user_id, delivery.allowed.task, now_ms)
    if switch is not None:
        seen = {"reason": switch.reason, "actor": switch.actor, "since_ms": switch.since_ms}
        return Stop(BlockReason.KILL_SWITCH, seen)
    shutoff = control.shutoff_for(delivery.tenant_id, delivery.user_id, now_ms)
    if shutoff is not None:
        return Stop(shutoff.reason, {"actor": shutoff.actor, "until_ms": shutoff.until_ms})
    return None


def without_answer(delivery: Delivery, control: ControlState) -> Go | Stop:
    """Whether a call may be made where the cache has no answer: of its model, or of an alternative."""
    if delivery.allowed.cache_only:
        reason = delivery.allowed.cache_only_reason or BlockReason.BREAKER_OPEN
        return Stop(reason, {"problem": "the breaker is open, and the cache has no answer"})
    opened = [opened_since(one, control) for one in delivery.options]
    return Go() if None in opened else opened[0] or Go()


def before_call(delivery: Delivery, control: ControlState, *, stale: bool, now_ms: int) -> Permission:
    """The last look: permission as ever, and whether the model's breaker lets its calls through."""
    allowed = permission(delivery, control, stale=stale, now_ms=now_ms)
    return (opened_since(delivery, control) or allowed) if isinstance(allowed, Go) else allowed


def opened_since(delivery: Delivery, control: ControlState) -> Stop | None:
    """The stop of a breaker of the model that changed after policy looked. What policy saw it has decided by: this
    task is a probe, or the breaker has closed, though the news of it may not have come here yet."""
    task = delivery.allowed.task
    breaker = control.provider_breakers.get((task.provider, task.model))
    if breaker is None or breaker.state is BreakerState.CLOSED:
        return None
    if order_of(breaker.position) <= order_of(delivery.allowed.control_position):
        return None
    seen = {"state": BreakerState(breaker.state).value, "since_ms": breaker.since_ms, "reason": breaker.reason}
    return Stop(BlockReason.PROVIDER_BREAKER_OPEN, seen)


def wait_before_retry(failure: ProviderFailure, number: int, max_attempts: int, left_s: float) -> float | None:
    """Seconds until attempt `number` is followed by another; None where it is the last.

    Only where it is certain that nothing was spent, and only if the wait ends before the task's time does.
    """
    if not failure.retry or failure.spend != "none" or number >= max_attempts:
        return None
    asked_s = failure.retry_after_s
    wait_s = FIRST_RETRY_S * 2.0 ** (number - 1) if asked_s is None else asked_s
    return wait_s if wait_s < left_s else None


def is_for_another(failure: ProviderFailure) -> bool:
    """Whether another model may answer what this one did not: certainly nothing was spent, and what failed is the
    provider's state: a request that was refused would be refused again. Limited for no time, the same model can be
    asked at once (with another key)."""
    if failure.spend != "none":
        return False
    if failure.status is not None:
        return failure.status >= 500 or (failure.status == 429 and failure.retry_after_s != 0)
    return failure.retry or failure.counts_for_breaker or failure.kind in _UNAVAILABLE
