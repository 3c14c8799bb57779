"""From a stream's entries to what the ledger stores: events it knows, and entries it has to skip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

import orjson

from services.ledger.projections import project, storable
from services.ledger.projections.control import project as project_order
from services.ledger.projections.control import subject_of
from services.ledger.projections.rows import Patch
from services.ledger.redaction import as_stored
from shared.control_state import ControlState
from shared.control_state import evolve as evolve_control
from shared.events.control import InvalidControl, control_event_id, entry_ms, parse_control
from shared.events.envelope import Payload, at
from shared.events.registry import EVENTS, UndecodableEvent
from shared.events.tasks import Storage, TaskRef
from shared.partitions import CONTROL
from shared.streams.read import Entry
from shared.texts.cipher import DataKey
from shared.texts.payload import encrypted, has_texts


@dataclass(frozen=True, slots=True)
class Record:
    """An event as the table `events` has it, and the patches that follow from it."""

    id: UUID
    partition: int | None
    stream: str
    entry_id: str
    type: str
    version: int
    time: datetime
    tenant_id: UUID | None
    user_id: UUID | None
    subject: str
    correlation_id: str | None
    causation_id: UUID | None
    body: str
    patches: tuple[Patch, ...]
    key_id: UUID | None = None
    """The data key by which its texts are encrypted."""


@dataclass(frozen=True, slots=True)
class Skip:
    """An entry that is in no table but `skipped_entries`. `reported`: another service puts it into the dead letters."""

    stream: str
    entry_id: str
    reason: str
    type: bytes | None
    data: bytes | None
    reported: bool = False


@dataclass(frozen=True, slots=True)
class Letter:
    """An entry of the dead-letter stream."""

    origin: str
    entry_id: str
    letter_id: str
    reason: str
    type: bytes | None
    data: bytes | None
    recorded_at: datetime


class KeyWanted(Exception):
    """The entry can be read when the key of this tenant and user is at hand."""

    def __init__(self, owner: tuple[UUID, UUID]) -> None:
        super().__init__("a data key is wanted")
        self.owner = owner


class Keys(Protocol):
    """The data keys at hand."""

    @property
    def encrypts(self) -> bool:
        """Whether texts are to be encrypted."""

    def key_of(self, owner: tuple[UUID, UUID]) -> DataKey | None:
        """The user's key, where it is at hand."""

    def erased(self, owner: tuple[UUID, UUID], time: datetime) -> bool:
        """Whether the texts of that time are to be gone."""


def read_event(partition: int, stream: str, entry: Entry, keys: Keys | None = None) -> Record | Skip:
    """An entry of a partition's stream, as the books keep it. Raises KeyWanted."""
    raw_id, fields = entry
    data = fields.get(b"data")
    key = None
    try:
        event = EVENTS.decode(data)
        storage = _storage(event.data)
        if keys is not None and keys.encrypts and storage != "none" and has_texts(event.data):
            if event.tenantid is None or event.userid is None:
                raise UndecodableEvent("it has texts, and names no tenant and user")
            owner = (event.tenantid, event.userid)
            if (key := keys.key_of(owner)) is None:
                raise KeyWanted(owner)
            if keys.erased(owner, event.time):
                storage, key = "none", None
        if storage != "full" or key is not None:
            raw = orjson.loads(data or b"")
            kept = as_stored(raw["data"], storage)
            data = orjson.dumps({**raw, "data": kept if key is None else encrypted(kept, key)})
            event = EVENTS.decode(data)
        patches = tuple(project(event))
    except (UndecodableEvent, ValueError, OverflowError) as error:
        return skip(stream, entry, str(error))
    assert data is not None, "it was decoded"
    return Record(
        id=event.id,
        partition=partition,
        stream=stream,
        entry_id=raw_id.decode(),
        type=event.type,
        version=int(event.dataschema.rpartition(":")[2]),
        time=event.time,
        tenant_id=event.tenantid,
        user_id=event.userid,
        subject=storable.text(event.subject),
        correlation_id=None if event.correlationid is None else storable.text(event.correlationid),
        causation_id=event.causationid,
        body=data.decode(),
        patches=patches,
        key_id=None if key is None else key.id,
    )


def _storage(payload: Payload) -> Storage:
    task = getattr(payload, "task", None)
    return task.storage if isinstance(task, TaskRef) else "full"


def read_order(before: ControlState, entry: Entry) -> tuple[Record | Skip, ControlState]:
    """An entry of the control stream, and the state after it."""
    raw_id, fields = entry
    entry_id, data = raw_id.decode(), fields.get(b"data")
    try:
        order = parse_control(data)
        patches = tuple(project_order(before, entry_id, order))
        after = evolve_control(before, entry_id, order)
    except (InvalidControl, ValueError, OverflowError) as error:
        reported = isinstance(error, InvalidControl)
        return replace(skip(CONTROL, entry, str(error)), reported=reported), replace(before, position=entry_id)
    assert data is not None, "it was parsed"
    tenant_id, user_id, subject = subject_of(order)
    record = Record(
        id=control_event_id(entry_id),
        partition=None,
        stream=CONTROL,
        entry_id=entry_id,
        type=order.type,
        version=order.schema_version,
        time=at(entry_ms(entry_id)),
        tenant_id=tenant_id,
        user_id=user_id,
        subject=subject,
        correlation_id=None,
        causation_id=None,
        body=data.decode(),
        patches=patches,
    )
    return record, after


def read_letter(entry: Entry) -> Letter:
    """An entry of the dead-letter stream: anything at all is stored."""
    raw_id, fields = entry
    letter_id = raw_id.decode()
    return Letter(
        origin=_text(fields, b"origin") or "unknown",
        entry_id=_text(fields, b"entry_id") or letter_id,
        letter_id=letter_id,
        reason=_text(fields, b"reason") or "none given",
        type=fields.get(b"type"),
        data=fields.get(b"data"),
        recorded_at=at(entry_ms(letter_id)),
    )


def skip(stream: str, entry: Entry, reason: str) -> Skip:
    """The entry, set aside."""
    raw_id, fields = entry
    return Skip(stream, raw_id.decode(), storable.text(reason)[:2000], fields.get(b"type"), fields.get(b"data"))


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str:
    return storable.text(fields.get(name, b"").decode("utf-8", "replace"))[:2000]
