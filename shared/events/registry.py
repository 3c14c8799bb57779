"""Decoding: from a stream entry to a typed event. Old versions are upcast; unknown ones are refused, never guessed.

Two releases may run side by side, so within a version a newer one may add fields (ADR 26).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from operator import getitem
from typing import Any

import orjson
from pydantic import ValidationError

from shared.events import decisions, outcomes, tasks
from shared.events.control import first_problem
from shared.events.envelope import SCHEMA_PREFIX, Envelope, Payload, schema_name

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class UndecodableEvent(ValueError):
    """An entry that is no event we know; it belongs into the dead letters, with this text as the reason."""


class Registry:
    """The event types of a stream, with the steps that lift old versions of their payloads to today's."""

    def __init__(self) -> None:
        self._payloads: dict[str, type[Payload]] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}

    def add(self, payload: type[Payload], upcasters: dict[int, Upcaster] | None = None) -> None:
        """Know `payload`; `upcasters[v]` turns the payload of version v into that of version v + 1."""
        self._payloads[payload.event_type] = payload
        for version, step in (upcasters or {}).items():
            self._upcasters[payload.event_type, version] = step

    def payloads(self) -> Iterable[type[Payload]]:
        """Every payload type, for the generated schemas."""
        return self._payloads.values()

    def decode(self, data: bytes | str | None) -> Envelope:
        """The event in an entry's `data` field. Raises UndecodableEvent."""
        raw = _loaded(data)
        payload = self._payload_type(raw)
        try:
            raw["data"] = _typed(payload, raw.get("data"))
            return Envelope.__pydantic_validator__.validate_python(raw)  # type: ignore[no-any-return]
        except ValidationError as error:
            raise UndecodableEvent(f"{raw['type']}: {first_problem(error)}") from error

    def payload(self, data: bytes | str | None) -> Payload:
        """The payload alone, for who knows the rest of the envelope already. Raises UndecodableEvent."""
        return self.payload_of(_loaded(data))

    def payload_of(self, raw: dict[str, Any]) -> Payload:
        """The payload of an event whose JSON was read already. Raises UndecodableEvent."""
        payload = self._payload_type(raw)
        try:
            return _typed(payload, raw.get("data"))
        except ValidationError as error:
            raise UndecodableEvent(f"{raw['type']}: {first_problem(error)}") from error

    def _payload_type(self, raw: dict[str, Any]) -> type[Payload]:
        """Today's payload type of the event, after lifting `raw['data']` to its version."""
        event_type = raw.get("type")
        payload = self._payloads.get(event_type) if isinstance(event_type, str) else None
        if payload is None:
            raise UndecodableEvent(f"unknown event type {event_type!r}")
        if raw.get("dataschema") == schema_name(payload.event_type, payload.schema_version):
            return payload
        schema = str(raw.get("dataschema", ""))
        name, _, version_text = schema.removeprefix(SCHEMA_PREFIX).rpartition(":")
        if name != event_type or not version_text.isdecimal():
            raise UndecodableEvent(f"dataschema {schema!r} does not name a version of {event_type}")
        version = int(version_text)
        while version < payload.schema_version:
            step = self._upcasters.get((payload.event_type, version))
            if step is None:
                raise UndecodableEvent(f"no way to lift {event_type} from version {version}")
            try:
                raw["data"] = step(raw["data"])
            except (KeyError, TypeError, ValueError) as error:
                raise UndecodableEvent(f"{event_type} version {version} cannot be lifted: {error!r}") from error
            version += 1
        if version > payload.schema_version:
            raise UndecodableEvent(
                f"{event_type} version {version} is newer than this release knows ({payload.schema_version})"
            )
        return payload


def _typed(payload: type[Payload], data: Any) -> Payload:
    """The payload. A field that this release does not know was added by a newer one beside it, and is passed over: what
    must not be passed over comes with a new version. Raises ValidationError."""
    try:
        return payload.__pydantic_validator__.validate_python(data)  # type: ignore[no-any-return]
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        if any(one["type"] != "extra_forbidden" for one in found):
            raise
        try:
            for one in found:
                *path, name = one["loc"]
                del reduce(getitem, path, data)[name]
        except (KeyError, IndexError, TypeError):  # the place is named by more than its path: in a union
            raise error from None
        return payload.__pydantic_validator__.validate_python(data)  # type: ignore[no-any-return]


def _loaded(data: bytes | str | None) -> dict[str, Any]:
    if data is None:
        raise UndecodableEvent("the entry has no field `data`")
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UndecodableEvent(f"data is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise UndecodableEvent("data is not a JSON object")
    return raw


def _all_events() -> Registry:
    registry = Registry()
    for payload in (
        tasks.TaskSubmitted,
        decisions.TaskAllowed,
        decisions.TaskDowngraded,
        decisions.TaskBlocked,
        decisions.ReservationEnded,
        decisions.BreakerChanged,
        decisions.ShutoffTripped,
        decisions.LimitNeared,
        outcomes.AttemptStarted,
        outcomes.TaskSucceeded,
        outcomes.TaskFailed,
        outcomes.AttemptResolved,
        outcomes.DecisionExpired,
    ):
        registry.add(payload)
    return registry


EVENTS = _all_events()
