"""One decision as it was delivered to this executor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID, uuid5

from shared.events.decisions import Alternative, TaskAllowed
from shared.events.envelope import Envelope, Payload, derived_id, follow
from shared.events.tasks import TaskRef, moved_to, ref_of
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

    @property
    def named(self) -> str:
        """The model that is called, `provider:model`."""
        return f"{self.allowed.task.provider}:{self.allowed.task.model}"

    @property
    def idempotency_key(self) -> UUID:
        """The same for each attempt with one model: another model's request is no repeat of this one's."""
        task = self.allowed.task
        return task.task_id if task.requested_model in (None, self.named) else uuid5(task.task_id, self.named)

    @property
    def options(self) -> list[Delivery]:
        """This delivery, and the same of each alternative to its model: at that one's price."""
        return [self, *(self._of(one) for one in self.allowed.alternatives)]

    def calling(self, named: str) -> Delivery:
        """The one of its options that calls this model; itself where none does."""
        return next((one for one in self.options if one.named == named), self)

    def _of(self, one: Alternative) -> Delivery:
        task = moved_to(self.allowed.task, f"{one.provider}:{one.model}", self.tenant_id, self.user_id)
        priced = {"task": task, "prices": one.prices, "max_output_tokens": one.max_output_tokens}
        return replace(self, allowed=self.allowed.model_copy(update=priced))

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
