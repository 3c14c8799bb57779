"""What policy reads: entries of its partition, as far as they can be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import orjson
from msgspec import Struct

from services.policy.decide import Owner
from shared.events.envelope import Envelope
from shared.events.outcomes import AttemptStarted
from shared.events.registry import EVENTS, UndecodableEvent

StreamName = Literal["tasks", "outcomes"]
# Entries of these types are not read: they change nothing here, and are half of all outcomes. What is broken of them
# the ledger sets aside, which reads everything.
PASSED_OVER = frozenset((AttemptStarted.event_type.encode(),))


class Input(Struct, frozen=True):
    """One entry that was decoded."""

    stream: StreamName
    entry_id: str
    event: Envelope

    @property
    def key(self) -> str:
        """Where the input is kept while it is held back, or set aside."""
        return f"{self.entry_id}/{self.stream}"

    @property
    def subject(self) -> str:
        """The task that it is about."""
        return self.event.subject

    @property
    def data(self) -> bytes:
        """The event as it is stored."""
        return self.event.to_json()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One entry that this release cannot read: broken, or of a version that it does not know."""

    stream: StreamName
    entry_id: str
    data: bytes
    problem: str

    @property
    def key(self) -> str:
        """Where it is kept while it is set aside."""
        return f"{self.entry_id}/{self.stream}"

    @property
    def subject(self) -> str:
        """The task that it is about, if it says so; else it stands for itself."""
        try:
            found = orjson.loads(self.data).get("subject")
            return str(UUID(found))
        except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
            return self.key


def read(stream: StreamName, entry_id: str, data: bytes | None) -> Input | Unreadable:
    """An entry of a partition's stream."""
    try:
        event = EVENTS.decode(data)
        owner_of(event)
    except (UndecodableEvent, ValueError) as error:
        return Unreadable(stream, entry_id, data or b"", str(error))
    return Input(stream, entry_id, event)


def owner_of(event: Envelope) -> Owner:
    """Whose task the event is about. Raises ValueError for an event that does not say."""
    if event.tenantid is None or event.userid is None:
        raise ValueError(f"{event.type} {event.id} names no tenant and user")
    return Owner(event.tenantid, event.userid)
