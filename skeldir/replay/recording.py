"""What was recorded, as steps in the order in which policy took them. Values only.

The order is that of the decisions stream: it says when policy decided each task and took in each end, which the entry
ids of the other two streams do not (a writer reads both, and takes ends first).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.policy.decide import Owner
from services.policy.evolve import End
from shared.events.decisions import BlockReason, ReservationEnded, TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope, Payload, derived_id
from shared.events.outcomes import AttemptResolved, DecisionExpired, TaskFailed, TaskSucceeded
from shared.events.tasks import Task, TaskSubmitted

ENDS = (TaskSucceeded, TaskFailed, TaskBlocked, AttemptResolved, DecisionExpired)
DECIDED = (TaskAllowed.event_type, TaskBlocked.event_type, ReservationEnded.event_type)
"""The types of events on the decisions stream that a replay needs."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A task was allowed, blocked, or decided again after its allow had expired."""

    at_ms: int
    cause_id: UUID
    owner: Owner
    decision_id: UUID
    """The id that an allow has, or would have had."""
    task: Task
    position: str
    """Of the control stream, as policy had applied it."""
    said: TaskAllowed | TaskBlocked

    @property
    def outside(self) -> str | None:
        """The reason, where something else than the deciders refused the task (see `policy.decide.block_task`)."""
        said = self.said
        if isinstance(said, TaskBlocked) and said.reason == BlockReason.LOG_LOST:
            return said.reason
        if isinstance(said, TaskBlocked) and said.rule == "breaker" and said.reason != BlockReason.BREAKER_OPEN:
            return said.reason
        return None


@dataclass(frozen=True, slots=True)
class Ending:
    """An end was taken in: a reservation was settled, released or held."""

    at_ms: int
    cause_id: UUID
    owner: Owner
    decision_id: UUID
    end: End


Step = Decision | Ending


def step_of(
    said: Payload | None, at: datetime, cause_id: UUID | None, owner: Owner, cause: Payload | None
) -> Step | None:
    """The step that an event of the decisions stream is (`said` None: a reservation ended); None where its cause is not
    in the books."""
    at_ms = round(at.timestamp() * 1000)
    if cause_id is None:
        return None
    if isinstance(said, TaskAllowed):
        decision_id = said.reservation.reservation_id
        return Decision(at_ms, cause_id, owner, decision_id, said.task, said.control_position, said)
    if isinstance(said, TaskBlocked):
        if not isinstance(cause, TaskSubmitted | DecisionExpired):
            return None
        decision_id = derived_id(cause_id, TaskAllowed.event_type)
        return Decision(at_ms, cause_id, owner, decision_id, cause.task, said.control_position, said)
    if not isinstance(cause, ENDS) or cause.decision_id is None:
        return None
    return Ending(at_ms, cause_id, owner, cause.decision_id, cause)


def steps(decisions: Iterable[Envelope], by_id: Mapping[UUID, Envelope]) -> Iterator[Step | None]:
    """The steps of one partition's decisions, given all of its events by their ids."""
    for event in decisions:
        if event.type not in DECIDED or event.tenantid is None or event.userid is None:
            continue
        cause = by_id.get(event.causationid) if event.causationid is not None else None
        said = None if isinstance(event.data, ReservationEnded) else event.data
        owner = Owner(event.tenantid, event.userid)
        yield step_of(said, event.time, event.causationid, owner, cause.data if cause is not None else None)
