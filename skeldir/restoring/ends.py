"""How tasks end that had no end in the books when the log was lost. Pure.

None of them is called, or called again: what the books do not have, the log may have had. An allowed task may have been
called since; it ends as uncertain, and its reservation is held until somebody has looked the call up. One that was not
decided ends as blocked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from shared.events.decisions import BlockReason, BreakerState, TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope, follow
from shared.events.outcomes import AttemptResolved, AttemptStarted, DecisionExpired, TaskFailed, TaskSucceeded
from shared.events.tasks import Task, TaskSubmitted, ref_of

SOURCE = "/skeldir/restore"
RULE = "restore"
DETAIL = "the log was lost, and the books do not say how the task ended"
FINAL = (TaskSucceeded, TaskFailed, TaskBlocked)


@dataclass(frozen=True, slots=True)
class Ended:
    """An end, on the stream (`decisions` or `outcomes`) that such an end comes from; of this task."""

    stream: str
    event: Envelope
    task: Task


def end_of(events: Sequence[Envelope], live: UUID | None, control_position: str, now_ms: int) -> Ended | None:
    """The end of a task, from all of its events, in their order. `live`: its reservation that has not ended.

    None where the books do not have its submission.
    """
    submitted = next((one for one in events if isinstance(one.data, TaskSubmitted)), None)
    if submitted is None:
        return None
    assert isinstance(submitted.data, TaskSubmitted), "looked for"
    task = submitted.data.task
    allowed = next((one for one in events if one.id == live), None)
    if allowed is None:
        blocked = _blocked(task, None, BreakerState.CLOSED, control_position)
        return Ended("decisions", follow(submitted, blocked, source=SOURCE, now_ms=now_ms), task)
    assert isinstance(allowed.data, TaskAllowed), "a reservation's id is its allow's"
    back = next((one.data for one in events if _of(one, DecisionExpired, allowed.id)), None)
    if isinstance(back, DecisionExpired) and back.spend == "none":
        blocked = _blocked(allowed.data.task, allowed.id, allowed.data.breaker_state, control_position)
        return Ended("outcomes", follow(allowed, blocked, source=SOURCE, now_ms=now_ms), task)
    attempts = [one.data for one in events if _of(one, AttemptStarted, allowed.id)]
    last = attempts[-1] if attempts else None
    failed = TaskFailed(
        task=last.task if isinstance(last, AttemptStarted) else ref_of(allowed.data.task),
        decision_id=allowed.id,
        attempt_id=last.attempt_id if isinstance(last, AttemptStarted) else None,
        reason=BlockReason.LOG_LOST,
        detail=DETAIL,
        provider_attempted=last is not None,
        counts_for_breaker=False,
        spend="uncertain",
        cache_watermark=task.cache_watermark,
    )
    return Ended("outcomes", follow(allowed, failed, source=SOURCE, now_ms=now_ms), task)


def still_to_settle(events: Iterable[Envelope], reservation_id: UUID) -> list[Envelope]:
    """What the books have about a reservation's call, and policy had perhaps not taken in: it is to read it again."""
    return [one for one in events if any(_of(one, kind, reservation_id) for kind in (*FINAL, AttemptResolved))]


def _of(event: Envelope, kind: type, decision_id: UUID) -> bool:
    return isinstance(event.data, kind) and getattr(event.data, "decision_id", None) == decision_id


def _blocked(task: Task, decision_id: UUID | None, breaker: BreakerState, control_position: str) -> TaskBlocked:
    return TaskBlocked(
        task=ref_of(task),
        reason=BlockReason.LOG_LOST,
        rule=RULE,
        explanation={"problem": DETAIL},
        breaker_state=breaker,
        max_cost=task.max_cost,
        cache_watermark=task.cache_watermark,
        decision_id=decision_id,
        control_position=control_position,
    )
