"""What the audit looks at: the ledger's events, the provider's account, and the clients' own notes. Values only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

ENDS = {"task.succeeded": "success", "task.blocked": "blocked", "task.failed": "failed"}
POISON = "chaos-poison-"
"""Stands in the bytes of what is put into the inbox to be refused."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event as the ledger has it; `order` is its entry's id: the server's milliseconds, and a number."""

    id: str
    stream: str
    order: tuple[int, int]
    type: str
    subject: str
    tenant: str | None
    user: str | None
    time_ms: float
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One line of the provider's account."""

    at_ms: float
    task_id: str
    attempt_id: str
    kind: str
    charged: int


@dataclass(slots=True)
class Request:
    """What the clients know of one request id. Acknowledged: a 2xx, or the inbox took it."""

    tenant: str
    user: str
    request_id: str
    task_type: str
    task_id: str
    prompt: dict[str, Any]
    acknowledged: bool = False
    sent: int = 0
    conflicts: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """A kill switch that certainly held from its acknowledgement until its release was sent. No tenant: all."""

    tenant: str | None
    since_ms: float
    until_ms: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A process was stopped in its tracks."""

    pid: int
    since_ms: float
    until_ms: float


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    origin: str
    entry_id: str
    reason: str
    data: str


@dataclass
class Evidence:
    """Everything, taken when all was quiet."""

    events: Sequence[Event] = ()
    calls: Sequence[Call] = ()
    requests: Sequence[Request] = ()
    rows: Sequence[tuple[str, str, str]] = ()
    """Of the ledger's table of calls: tenant, endpoint, request id."""
    holds: dict[str, str] = field(default_factory=dict)
    """Reservations that policy keeps on the log server, and their state: live or held."""
    switches: Sequence[Switch] = ()
    pauses: Sequence[Pause] = ()
    troubles: Sequence[tuple[float, float]] = ()
    """When some service may not have been able to read the control stream."""
    letters: Sequence[Letter] = ()
    poison: frozenset[str] = frozenset()
    """Names of what was put into the inbox on purpose, and acknowledged; each is part of its entry's bytes."""
    commands: dict[str, int] = field(default_factory=dict)
    """Commands that judge the books themselves, and their exit codes."""

    def of(self, *types: str) -> Iterable[Event]:
        """The events of these types, in the order of the log."""
        return (event for event in self.ordered if event.type in types)

    @cached_property
    def ordered(self) -> list[Event]:
        return sorted(self.events, key=lambda event: event.order)

    @cached_property
    def ends(self) -> dict[str, list[Event]]:
        """By task."""
        found: dict[str, list[Event]] = defaultdict(list)
        for event in self.of(*ENDS):
            found[event.subject].append(event)
        return found

    @cached_property
    def allows(self) -> dict[str, Event]:
        """By decision."""
        return {event.id: event for event in self.of("task.allowed")}

    @cached_property
    def attempts(self) -> dict[str, Event]:
        """By attempt."""
        return {event.data["attempt_id"]: event for event in self.of("attempt.started")}

    @cached_property
    def reservations(self) -> dict[str, list[Event]]:
        """How each ended, by its decision."""
        found: dict[str, list[Event]] = {decision: [] for decision in self.allows}
        for event in self.of("reservation.ended"):
            found.setdefault(event.data["reservation_id"], []).append(event)
        return found

    @cached_property
    def charged(self) -> dict[str, int]:
        """What the provider charged for the attempts of each decision."""
        found: dict[str, int] = defaultdict(int)
        for call in self.calls:
            if call.attempt_id in self.attempts:
                found[self.attempts[call.attempt_id].data["decision_id"]] += call.charged
        return found
