"""From a stream's entries to what the ledger stores: events it knows, and entries it has to skip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple, Protocol
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
from shared.events.envelope import Envelope, Payload, at
from shared.events.registry import EVENTS, UndecodableEvent
from shared.events.tasks import Storage, TaskRef
from shared.partitions import CONTROL
from shared.streams.read import Entry
from shared.texts.cipher import DataKey
from shared.texts.payload import TEXTS, TREES, encrypted, has_texts

Owner = tuple[UUID, UUID]
"""Tenant and user."""


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


class Keys(Protocol):
    """The data keys at hand."""

    @property
    def encrypts(self) -> bool:
        """Whether texts are to be encrypted."""

    def key_of(self, owner: Owner) -> DataKey | None:
        """The user's key, where it is at hand."""

    def erased(self, owner: Owner, time: datetime) -> bool:
        """Whether the texts of that time are to be gone."""


class OpenEvent(NamedTuple):
    """An event, and whose data key it takes where the ledger encrypts; None: it has no text that is kept."""

    event: Envelope
    owner: Owner | None


def open_event(stream: str, entry: Entry) -> OpenEvent | Skip:
    """The event in an entry of a partition's stream."""
    try:
        event = EVENTS.decode(entry[1].get(b"data"))
    except UndecodableEvent as error:
        return skip(stream, entry, str(error))
    if event.tenantid is None or event.userid is None or _storage(event.data) == "none" or not has_texts(event.data):
        return OpenEvent(event, None)
    return OpenEvent(event, (event.tenantid, event.userid))


def read_event(partition: int, stream: str, entry: Entry, keys: Keys | None = None) -> Record | Skip:
    """An entry of a partition's stream, as the books keep it. Its owner's key is to be at hand."""
    opened = open_event(stream, entry)
    return opened if isinstance(opened, Skip) else as_record(partition, stream, entry, opened, keys)


def as_record(partition: int, stream: str, entry: Entry, opened: OpenEvent, keys: Keys | None) -> Record | Skip:
    """An open event as the books keep it."""
    raw_id, fields = entry
    event, owner = opened
    data, key = fields[b"data"], None
    try:
        storage = _storage(event.data)
        if owner is not None and keys is not None and keys.encrypts:
            if keys.erased(owner, event.time):
                storage = "none"
            else:
                key = keys.key_of(owner)
                assert key is not None, "it was fetched"
        if storage != "full" or key is not None:
            raw = orjson.loads(data)
            kept = as_stored(raw["data"], storage)
            kept = kept if key is None else encrypted(kept, key)
            data = orjson.dumps({**raw, "data": kept})
            event = _as_kept(event, kept)
        patches = tuple(project(event))
    except (ValueError, OverflowError) as error:
        return skip(stream, entry, str(error))
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


def _as_kept(event: Envelope, kept: dict[str, Any]) -> Envelope:
    """The event with the texts of its stored payload; but for the prompt, which no projection reads."""
    changed = {name: kept[name] for name in (*TEXTS, *TREES) if kept.get(name) is not None}
    return event.model_copy(update={"data": event.data.model_copy(update=changed)}) if changed else event


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
