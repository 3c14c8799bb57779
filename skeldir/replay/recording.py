"""What was recorded, as steps in the order in which policy took them. Values only.

The order is that of the decisions stream: it says when policy decided each task and took in each end, which the entry
ids of the other two streams do not (a writer reads both, and takes ends first).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from uuid import UUID

from msgspec import Struct

from services.policy.evolve import Effect
from services.policy.state import Owner
from shared.events.decisions import BlockReason, ReservationEnded, TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope, derived_id
from shared.events.tasks import Task
from shared.texts.cipher import DataKey
from skeldir.replay.members import (
    Allowed,
    Blocked,
    Ends,
    Expired,
    Failed,
    Members,
    Resolved,
    Submitted,
    Succeeded,
    read,
    task_of,
)

DECIDED = {
    TaskAllowed.event_type: (True, False),
    TaskBlocked.event_type: (True, True),
    ReservationEnded.event_type: (False, True),
}
"""The types of events on the decisions stream that a replay needs: whether their bodies, and whether their causes'. An
allow says all by itself; a reservation's end says nothing that its cause does not."""


class Decision(Struct, frozen=True):
    """A task was allowed, blocked, or decided again after its allow had expired."""

    at_ms: int
    cause_id: UUID
    owner: Owner
    decision_id: UUID
    """The id that an allow has, or would have had."""
    task: Task
    position: str
    """Of the control stream, as policy had applied it."""
    said: Allowed | Blocked

    @property
    def outside(self) -> str | None:
        """The reason, where something else than the deciders refused the task (see `policy.decide.block_task`)."""
        said = self.said
        if isinstance(said, Blocked) and said.reason == BlockReason.LOG_LOST:
            return said.reason
        if isinstance(said, Blocked) and said.rule == "breaker" and said.reason != BlockReason.BREAKER_OPEN:
            return said.reason
        return None


class End(Struct, frozen=True):
    """An end, as far as a replay asks. `tokens`: those of a call that was charged by tokens."""

    effect: Effect
    called: bool = False
    """A task's end, for which a provider was called."""
    expired: bool = False
    blocked: str | None = None
    """The reason, where that was the end."""
    tokens: dict[str, int] | None = None


class Ending(Struct, frozen=True):
    """An end was taken in: a reservation was settled, released or held."""

    at_ms: int
    cause_id: UUID
    owner: Owner
    decision_id: UUID
    end: End


Step = Decision | Ending


def step_of(
    said: Members | None,
    at_ms: int,
    cause_id: UUID | None,
    owner: Owner,
    cause: Members | None,
    keys: Mapping[UUID, DataKey],
) -> Step | None:
    """The step that an event of the decisions stream is (`said` None: a reservation ended); None where its cause is not
    in the books. Raises UndecodableEvent."""
    if cause_id is None:
        return None
    if isinstance(said, Allowed):
        task = task_of(said.task, keys)
        return Decision(at_ms, cause_id, owner, said.reservation.reservation_id, task, said.control_position, said)
    if isinstance(said, Blocked):
        if not isinstance(cause, Submitted | Expired):
            return None
        decision_id = derived_id(cause_id, TaskAllowed.event_type)
        return Decision(at_ms, cause_id, owner, decision_id, task_of(cause.task, keys), said.control_position, said)
    if cause is None or isinstance(cause, Allowed | Submitted) or cause.decision_id is None:
        return None
    return Ending(at_ms, cause_id, owner, cause.decision_id, end_of(cause))


def end_of(members: Ends) -> End:
    """What a replay asks of an end."""
    match members:
        case Succeeded() | Failed():
            return End(members.effect, called=members.provider_attempted, tokens=members.usage.charged)
        case Resolved():
            return End(members.effect, tokens=members.usage.charged)
        case Expired():
            return End(members.effect, expired=True)
        case Blocked():
            return End(members.effect, blocked=members.reason)


def steps(decisions: Iterable[Envelope], by_id: Mapping[UUID, Envelope]) -> Iterator[Step | None]:
    """The steps of one partition's decisions, given all of its events by their ids."""
    for event in decisions:
        if event.type not in DECIDED or event.tenantid is None or event.userid is None:
            continue
        cause = by_id.get(event.causationid) if event.causationid is not None else None
        said = None if isinstance(event.data, ReservationEnded) else read(event.to_json())
        because = None if cause is None else read(cause.to_json())
        owner, at_ms = Owner(event.tenantid, event.userid), round(event.time.timestamp() * 1000)
        yield step_of(said, at_ms, event.causationid, owner, because, {})
