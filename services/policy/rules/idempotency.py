"""One request, one answer: a task that was decided is not decided again, whatever delivers it twice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from shared.events.tasks import Task


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What the task's record says: None where there is none (the task came past the gateway)."""

    fingerprint: str | None = None
    state: str | None = None


class Standing(Enum):
    """How a delivered task stands to what was decided before."""

    FRESH = auto()
    DECIDED = auto()
    CONFLICT = auto()


def standing(record: TaskRecord, task: Task) -> Standing:
    """Fresh until a decision is recorded; a conflict when the record belongs to another body or user.

    A task whose decision expired is not fresh: `decision.expired` has it decided again, and a second delivery of the
    submission must not do so too.
    """
    if record.fingerprint is not None and record.fingerprint != task.fingerprint:
        return Standing.CONFLICT
    if record.state in (None, "submitted"):
        return Standing.FRESH
    return Standing.DECIDED
