"""What a replay reads of an event: these members. The rest of a body, its long texts above all, is passed over unread.

An event of another version than these are written for is lifted to today's first, by the registry of all events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union
from uuid import UUID

import msgspec
from msgspec import Raw, Struct
from pydantic import ValidationError

from services.policy import evolve
from services.policy.evolve import Effect
from shared.events import decisions, outcomes, tasks
from shared.events.control import first_problem
from shared.events.envelope import schema_name
from shared.events.outcomes import Spend
from shared.events.registry import EVENTS, UndecodableEvent
from shared.events.tasks import Task
from shared.texts.cipher import DataKey
from shared.texts.payload import is_closed, open_tree


class Usage(Struct, frozen=True):
    """Of what a call consumed: what it cost, what quotas count, and what it can be charged for again."""

    cost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    tokens: dict[str, int] = {}
    prices: dict[str, Any] | None = None

    @property
    def total(self) -> int:
        """Tokens of input and output."""
        return self.input_tokens + self.output_tokens

    @property
    def charged(self) -> dict[str, int] | None:
        """The tokens, where it was by them that the call was charged."""
        return None if self.prices is None else self.tokens


class Reservation(Struct, frozen=True):
    """What was reserved."""

    reservation_id: UUID
    amount: int
    hour: str
    month: str


class Allowed(Struct, frozen=True):
    """Of `task.allowed`."""

    task: Raw
    reservation: Reservation
    control_position: str
    quotas: list[Any] = []
    prices: dict[str, Any] | None = None
    cache_only: bool = False
    probe: bool = False


class Blocked(Struct, frozen=True):
    """Of `task.blocked`: a decision, or (with `decision_id`) an end."""

    reason: str
    rule: str
    control_position: str
    decision_id: UUID | None = None

    @property
    def effect(self) -> Effect:
        """As an end."""
        return evolve.BLOCKED


class Submitted(Struct, frozen=True):
    """Of `task.submitted`."""

    task: Raw


class Expired(Struct, frozen=True):
    """Of `decision.expired`."""

    task: Raw
    decision_id: UUID
    spend: Spend = "none"

    @property
    def effect(self) -> Effect:
        """As an end."""
        return evolve.given_back(self.spend)


class Succeeded(Struct, frozen=True):
    """Of `task.succeeded`."""

    decision_id: UUID
    provider_attempted: bool
    usage: Usage

    @property
    def effect(self) -> Effect:
        """As an end."""
        return evolve.succeeded(self.provider_attempted, self.usage.cost, self.usage.total)


class Failed(Struct, frozen=True):
    """Of `task.failed`."""

    decision_id: UUID
    provider_attempted: bool
    counts_for_breaker: bool
    spend: Spend
    usage: Usage = Usage()

    @property
    def effect(self) -> Effect:
        """As an end."""
        usage, called = self.usage, self.provider_attempted
        return evolve.failed(self.spend, called, usage.cost, usage.total, counts=self.counts_for_breaker)


class Resolved(Struct, frozen=True):
    """Of `attempt.resolved`."""

    decision_id: UUID
    spend: Spend
    usage: Usage

    @property
    def effect(self) -> Effect:
        """As an end."""
        return evolve.resolved(self.spend, self.usage.cost, self.usage.total)


Ends = Blocked | Expired | Succeeded | Failed | Resolved
Members = Allowed | Submitted | Ends

_READ: dict[str, type[Struct]] = {
    decisions.TaskAllowed.event_type: Allowed,
    decisions.TaskBlocked.event_type: Blocked,
    tasks.TaskSubmitted.event_type: Submitted,
    outcomes.DecisionExpired.event_type: Expired,
    outcomes.TaskSucceeded.event_type: Succeeded,
    outcomes.TaskFailed.event_type: Failed,
    outcomes.AttemptResolved.event_type: Resolved,
}
_SCHEMAS = {members: schema_name(event_type, 1) for event_type, members in _READ.items()}
"""By whose version these members are named. A new version needs a look at them."""
_ENVELOPES = tuple(
    msgspec.defstruct(members.__name__, [("dataschema", str), ("data", members)], tag_field="type", tag=event_type)
    for event_type, members in _READ.items()
)
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Union[_ENVELOPES])  # noqa: UP007 (made at run time)


def read(body: str | bytes) -> Members | None:
    """The members of an event; None where a replay has no use for its type. Raises UndecodableEvent."""
    try:
        found = _decoder.decode(body)
        if found.dataschema == _SCHEMAS[type(found.data)]:
            members: Members = found.data
            return members
    except msgspec.MsgspecError:
        pass  # of a type that is not read here, or not as this release writes it
    event = EVENTS.decode(body)
    if event.type not in _READ:
        return None
    lifted: Members = _decoder.decode(event.to_json()).data
    return lifted


def task_of(raw: Raw, keys: Mapping[UUID, DataKey]) -> Task:
    """The task, its prompt as it was: that says how much is reserved for it. Without its key, what is left of it.

    Raises UndecodableEvent.
    """
    try:
        task: Task = Task.__pydantic_validator__.validate_json(bytes(raw))
    except ValidationError as error:
        raise UndecodableEvent(f"task: {first_problem(error)}") from error
    if not is_closed(task.prompt):
        return task
    prompt = open_tree(keys, str(task.task_id), "prompt", task.prompt)
    return task.model_copy(update={"prompt": prompt})
