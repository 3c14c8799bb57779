"""What is live at one place of a history: tasks without an end, and decisions whose reservation may still change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from services.ledger.history.entry import Entry, Stream
from shared.events.decisions import ReservationEnded, TaskAllowed, TaskBlocked
from shared.events.envelope import Payload
from shared.events.outcomes import (
    AttemptResolved,
    AttemptStarted,
    DecisionExpired,
    TaskFailed,
    TaskSucceeded,
)
from shared.events.tasks import Task, TaskSubmitted

End = TaskSucceeded | TaskFailed | TaskBlocked
ENDS = (TaskSucceeded, TaskFailed, TaskBlocked)
Settlement = tuple[Literal["settled", "released", "held"], int]
Use = dict[str, int | None]
"""By unit; None: nobody said, and as much as was reserved counts."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt as it was recorded."""

    number: int
    attempt_id: UUID
    executor: str
    entry: Entry
    provider: str
    model: str


@dataclass(slots=True)
class Decision:
    """An allow, from its event to the end of its reservation."""

    entry: Entry
    allowed: TaskAllowed
    life: Life
    attempts: list[Attempt] = field(default_factory=list)
    given_back: Entry | None = None
    state: Literal["live", "held", "ended"] = "live"
    settlements: dict[UUID, Settlement] = field(default_factory=dict)
    """By the event that causes it: how the reservation ends then."""
    uses: dict[UUID, Use] = field(default_factory=dict)
    """As `settlements`: what the quotas count then."""


@dataclass(slots=True)
class Life:
    """A task, from its submission to its end, or until none of its reservations can change any more."""

    task: Task
    tenant_id: UUID
    user_id: UUID
    entry: Entry
    decisions: list[Decision] = field(default_factory=list)
    end: Entry | None = None

    @property
    def is_over(self) -> bool:
        return self.end is not None and all(one.state == "ended" for one in self.decisions)


@dataclass(slots=True)
class Live:
    """The state. `whole`: the history begins with the system; else what is unknown may be from before its beginning.
    `taken_in`: up to which millisecond each stream is in the books (missing: to its end)."""

    whole: bool = True
    taken_in: Mapping[Stream, int] = field(default_factory=dict)
    tasks: dict[UUID, Life] = field(default_factory=dict)
    decisions: dict[UUID, Decision] = field(default_factory=dict)
    unjudged: int = 0
    """How often something was unknown that may be from before the beginning, or not in the books yet."""

    def should_know(self, entry: Entry, *streams: Stream) -> bool:
        """Whether what `entry` builds on, in these streams, must have been read when `entry` is."""
        known = self.whole and all(entry.ms <= self.taken_in.get(stream, entry.ms) for stream in streams)
        self.unjudged += not known
        return known

    def shown_called(self, entry: Entry) -> tuple[Decision, Attempt] | None:
        """The recorded attempt of which `entry` shows that the provider was asked.

        Another attempt on the same decision follows only on a call that failed; an end may name the attempt that made
        the call. An attempt that is recorded and then stopped by the last check before its call is shown by neither.
        """
        data = entry.event.data
        if not isinstance(data, AttemptStarted | TaskSucceeded | TaskFailed):
            return None
        decision = self.decisions.get(data.decision_id)
        if decision is None:
            return None
        if isinstance(data, AttemptStarted):
            return (decision, decision.attempts[-1]) if decision.attempts else None
        if data.provider_attempted:
            for attempt in decision.attempts:
                if attempt.attempt_id == data.attempt_id:
                    return decision, attempt
        return None

    def apply(self, entry: Entry) -> None:
        """Take the entry over. What cannot be placed changes nothing; the checks have said so."""
        data = entry.event.data
        match data:
            case TaskSubmitted(task=task):
                self._life(entry, task)
            case TaskAllowed():
                life = self._life(entry, data.task)
                if life is not None and entry.event.id not in self.decisions:
                    made = Decision(entry, data, life)
                    self.decisions[entry.event.id] = made
                    life.decisions.append(made)
            case AttemptStarted():
                if (decision := self.decisions.get(data.decision_id)) is not None:
                    asked = data.task.provider, data.task.model
                    attempt = Attempt(data.attempt_no, data.attempt_id, data.executor, entry, *asked)
                    decision.attempts.append(attempt)
            case DecisionExpired():
                self._settlement(entry, data.decision_id, data)
                if (decision := self.decisions.get(data.decision_id)) is not None and decision.given_back is None:
                    decision.given_back = entry
            case TaskSucceeded() | TaskFailed() | TaskBlocked():
                self._settlement(entry, data.decision_id, data)
                life = self.tasks.get(data.task.task_id)
                if life is not None and life.end is None:
                    life.end = entry
                    self._forget((life,))
            case AttemptResolved():
                self._settlement(entry, data.decision_id, data)
            case ReservationEnded():
                if (decision := self.decisions.get(data.reservation_id)) is not None:
                    decision.state = "held" if data.how == "held" else "ended"
                    self._forget((decision.life,))

    def _life(self, entry: Entry, task: Task) -> Life | None:
        tenant_id, user_id = entry.event.tenantid, entry.event.userid
        if tenant_id is None or user_id is None:
            return None
        return self.tasks.setdefault(task.task_id, Life(task, tenant_id, user_id, entry))

    def _settlement(self, entry: Entry, decision_id: UUID | None, data: Payload) -> None:
        decision = self.decisions.get(decision_id) if decision_id is not None else None
        if decision is not None:
            decision.settlements[entry.event.id] = settlement(data)
            decision.uses[entry.event.id] = use(data)

    def _forget(self, lives: Iterable[Life]) -> None:
        for life in lives:
            if life.is_over:
                self.tasks.pop(life.task.task_id, None)
                for decision in life.decisions:
                    self.decisions.pop(decision.entry.event.id, None)


def settlement(data: Payload) -> Settlement:
    """How a reservation must end by what was said of its call: as certain as that was."""
    match data:
        case TaskSucceeded(provider_attempted=True):
            return "settled", data.usage.cost
        case TaskFailed(spend="certain") | AttemptResolved(spend="certain"):
            return "settled", data.usage.cost
        case TaskFailed(spend="uncertain") | DecisionExpired(spend="uncertain"):
            return "held", 0
        case _:
            return "released", 0


def use(data: Payload) -> Use:
    """What quotas must count of a call: each call that was made, and what it used as far as that is certain."""
    called = isinstance(data, AttemptResolved) or getattr(data, "provider_attempted", False)
    how, cost = settlement(data)
    if how != "settled" or not isinstance(data, TaskSucceeded | TaskFailed | AttemptResolved):
        return {"calls": int(called), "tokens": 0, "money": 0}
    said = data.usage.input_tokens + data.usage.output_tokens
    return {"calls": int(called), "tokens": said or None, "money": cost}
