"""One decision as it was delivered to this executor."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from shared.events.decisions import TaskAllowed
from shared.events.envelope import Envelope, Payload, derived_id, follow
from shared.events.tasks import TaskRef, ref_of
from shared.partitions import Partition

SOURCE = "/skeldir/executor"


@dataclass(frozen=True, slots=True)
class Delivery:
    """An allowed task, where it came from, and what is needed to answer for it."""

    partition: Partition
    entry_id: str
    event: Envelope
    allowed: TaskAllowed
    tenant_id: UUID
    user_id: UUID
    cache_epoch: str = ""
    """The last purge that concerns the task, when its answer was looked for; what is stored belongs to that epoch."""
    redelivered: bool = False
    """It was delivered before: to an executor that has gone silent, or to this one, which lost it from sight."""

    @property
    def decision_id(self) -> UUID:
        return self.event.id

    @property
    def cache(self) -> str | None:
        """The key of the cached answer to this task's question; None where the task does not use the cache."""
        key = self.allowed.task.cache_key
        if key is None:
            return None
        return self.partition.cache(f"{key}:{self.cache_epoch}" if self.cache_epoch else key)

    @property
    def ref(self) -> TaskRef:
        """What later events repeat of the task."""
        return ref_of(self.allowed.task)

    def attempt_id(self, attempt_no: int) -> UUID:
        """The same for the same attempt, whoever asks."""
        return derived_id(self.decision_id, "attempt.started", attempt_no)

    def follow(self, payload: Payload, now_ms: int, ordinal: int = 0) -> Envelope:
        """An event of this executor about the task."""
        return follow(self.event, payload, source=SOURCE, now_ms=now_ms, ordinal=ordinal)


def delivery_of(partition: Partition, entry_id: str, event: Envelope, *, redelivered: bool) -> Delivery:
    """The delivery of an allowed task. Raises ValueError for an event that is none, or does not say whose it is."""
    if not isinstance(event.data, TaskAllowed):
        raise ValueError(f"the entry's type says {TaskAllowed.event_type}, its event {event.type}")
    if event.tenantid is None or event.userid is None:
        raise ValueError(f"{event.type} {event.id} names no tenant and user")
    return Delivery(partition, entry_id, event, event.data, event.tenantid, event.userid, redelivered=redelivered)
