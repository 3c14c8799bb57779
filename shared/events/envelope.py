"""The envelope: CloudEvents 1.0 attribute names around one typed payload (https://cloudevents.io, spec 1.0.2).

A stream entry has two fields: `type`, and `data`, the envelope as one JSON object.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache, lru_cache
from hashlib import sha1
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SerializeAsAny

NAMESPACE = UUID("6ba7b814-5b1d-5e3c-9f0a-736b656c6469")
SCHEMA_PREFIX = "urn:skeldir:event:"


class Payload(BaseModel):
    """What one event type says. `event_type` and `schema_version` name it on the wire, for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_type: ClassVar[str]
    schema_version: ClassVar[int] = 1


class Envelope(BaseModel):
    """One event: who, what, when, caused by what, and the payload."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: UUID
    source: str = Field(description="The service that wrote the event, e.g. `/skeldir/policy`.")
    type: str
    subject: str = Field(description="The task id, or what else the event is about.")
    time: AwareDatetime
    dataschema: str = Field(description="`urn:skeldir:event:<type>:<version>`.")
    tenantid: UUID | None = None
    userid: UUID | None = None
    correlationid: str | None = None
    causationid: UUID | None = None
    traceparent: str | None = None
    data: SerializeAsAny[Payload]

    def to_json(self) -> bytes:
        """The envelope as it stands in the stream's `data` field."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)

    def to_entry(self) -> dict[bytes | str, bytes | str]:
        """The fields of a stream entry."""
        return {"type": self.type, "data": self.to_json()}


@cache
def schema_name(event_type: str, version: int) -> str:
    """The `dataschema` attribute of an event."""
    return f"{SCHEMA_PREFIX}{event_type}:{version}"


def derived_id(cause: UUID, event_type: str, ordinal: int = 0) -> UUID:
    """The id of an event that follows from another: the same cause always gives the same id, so a repeat is seen."""
    return _derived(cause, event_type, ordinal)


@lru_cache(maxsize=1024)
def _derived(cause: UUID, event_type: str, ordinal: int) -> UUID:
    return named_id(cause, f"{event_type}#{ordinal}")  # asked for some times while the event is made


def named_id(namespace: UUID, name: str) -> UUID:
    """The id of what has that name there (RFC 9562, version 5). `uuid.uuid5`, which takes twice as long over it."""
    digest = sha1(namespace.bytes + name.encode(), usedforsecurity=False).digest()
    return UUID(int=int.from_bytes(digest[:16]), version=5)


@lru_cache(maxsize=16)  # all events of a turn have one time
def at(now_ms: int) -> datetime:
    """Milliseconds since the epoch as an aware UTC time."""
    return datetime.fromtimestamp(now_ms / 1000, UTC)


def follow(
    cause: Envelope, payload: Payload, *, source: str, now_ms: int, ordinal: int = 0, event_id: UUID | None = None
) -> Envelope:
    """An event caused by `cause`: same tenant, user, correlation and trace."""
    return new(
        payload,
        event_id=event_id or derived_id(cause.id, payload.event_type, ordinal),
        source=source,
        subject=cause.subject,
        now_ms=now_ms,
        tenantid=cause.tenantid,
        userid=cause.userid,
        correlationid=cause.correlationid,
        causationid=cause.id,
        traceparent=cause.traceparent,
    )


def new(payload: Payload, *, event_id: UUID, source: str, subject: str, now_ms: int, **attributes: Any) -> Envelope:
    """An event of `payload`'s type and current version."""
    return Envelope(
        id=event_id,
        source=source,
        type=payload.event_type,
        subject=subject,
        time=at(now_ms),
        dataschema=schema_name(payload.event_type, payload.schema_version),
        data=payload,
        **attributes,
    )
