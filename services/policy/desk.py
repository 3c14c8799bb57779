"""What a partition's writer has in memory, and what a turn changes of it. Values only; no rule lives here."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from services.policy.decide import Owner
from services.policy.inputs import Input, Unreadable, read
from services.policy.rules.idempotency import TaskRecord
from services.policy.state import Account, Book, Hold, Probes
from shared.control_acts import LetterReturned
from shared.events.envelope import Envelope
from shared.events.tasks import Task
from shared.provider_breakers import Model

AccountKey = tuple[UUID, UUID | None]


@dataclass(slots=True)
class Desk:
    """What a partition's writer has in memory. Accounts, holds and records are loaded before a turn needs them."""

    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    records: dict[UUID, TaskRecord] = field(default_factory=dict)
    parked: dict[Owner, deque[Input]] = field(default_factory=dict)
    parked_count: int = 0
    aside: dict[str, deque[Input | Unreadable]] = field(default_factory=dict)
    aside_count: int = 0
    probes: Mapping[Model, Probes] = field(default_factory=dict)

    def book(self, owner: Owner) -> Book:
        """The accounts that concern a user, and the partition's probes."""
        return Book(self.accounts[owner.tenant_id, owner.user_id], self.accounts[owner.tenant_id, None], self.probes)

    def park(self, owner: Owner, held: Input) -> None:
        """Hold an input back, behind those of the same user that already wait."""
        self.parked.setdefault(owner, deque()).append(held)
        self.parked_count += 1

    def set_aside(self, one: Input | Unreadable) -> None:
        """Keep an entry that could not be taken in, behind those of the same task that are kept already."""
        self.aside.setdefault(one.subject, deque()).append(one)
        self.aside_count += 1

    def with_letter(self, act: LetterReturned) -> list[Input | Unreadable]:
        """The entry that the order is about, and all of its task that are set aside with it, read again."""
        key = f"{act.entry_id}/{act.origin.rpartition(':')[2]}"
        kept = next((queue for queue in self.aside.values() if any(one.key == key for one in queue)), ())
        return [read(one.stream, one.entry_id, one.data) for one in kept if not (act.discard and one.key == key)]

    def unpark(self, owner: Owner) -> Input:
        """Take the first that waits."""
        queue = self.parked[owner]
        first = queue.popleft()
        self.parked_count -= 1
        if not queue:
            del self.parked[owner]
        return first


@dataclass(slots=True)
class Changes:
    """What a turn changed: all of it is committed in one atomic step, or none."""

    events: list[Envelope] = field(default_factory=list)
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    holds: dict[UUID, Hold | None] = field(default_factory=dict)
    allowed: dict[UUID, tuple[Task, UUID]] = field(default_factory=dict)
    ended: dict[UUID, tuple[str, bytes]] = field(default_factory=dict)
    parked: dict[str, tuple[Task, bytes]] = field(default_factory=dict)
    unparked: list[str] = field(default_factory=list)
    aside: dict[str, bytes] = field(default_factory=dict)
    returned: list[str] = field(default_factory=list)
    dead: list[tuple[Input | Unreadable, str]] = field(default_factory=list)
    probes: Mapping[Model, Probes] | None = None
