"""From an entry of an outcomes stream to the call that it tells of. Quick: every outcome there is passes here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from services.policy.provider_breakers.config import BreakerConfig
from services.policy.provider_breakers.window import Call
from shared.events.control import entry_ms
from shared.events.envelope import schema_name
from shared.events.outcomes import AttemptStarted, TaskFailed, TaskSucceeded

# Only today's version is read: what an older release wrote is soon past the window, and a newer one is not guessed.
_KNOWN = {
    payload.event_type.encode(): schema_name(payload.event_type, payload.schema_version)
    for payload in (TaskSucceeded, TaskFailed, AttemptStarted)
}
# Of attempts only those tell of a call that had gone on from another model's failure.
_ATTEMPT, _GONE_ON = AttemptStarted.event_type.encode(), b'"after":{'
MAX_PROVIDER, MAX_MODEL = 100, 200


def call_of(entry_id: bytes, fields: Mapping[bytes, bytes], config: BreakerConfig) -> Call | None:
    """The call, or None for an entry that says nothing about the provider: another event, an answer from the cache, a
    caller's mistake, or what cannot be read (policy's own reading sets that aside)."""
    kind = fields.get(b"type", b"")
    schema = _KNOWN.get(kind)
    if schema is None or (kind == _ATTEMPT and _GONE_ON not in fields.get(b"data", b"")):
        return None
    try:
        event: Any = orjson.loads(fields[b"data"])
        return _call(event, schema, entry_ms(entry_id), config)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _call(event: Any, schema: str, ended_ms: int, config: BreakerConfig) -> Call | None:
    data = event["data"].get("after") or event["data"]
    task = data.get("task", data)
    provider, model = task["provider"], task["model"]
    if event["dataschema"] != schema or not config.watches(provider) or not data["provider_attempted"]:
        return None
    failed = "counts_for_breaker" in data
    if failed and not data["counts_for_breaker"]:
        return None
    if not 0 < len(provider) <= MAX_PROVIDER or not 0 < len(model) <= MAX_MODEL:
        return None
    latency_ms = int(data.get("usage", data).get("latency_ms", 0))
    # How long a stream takes is a matter of its length.
    timed = config.slow_ms and not failed and "chunks" not in data.get("response_metadata", {})
    return Call(
        model=(provider, model),
        user=str(event["userid"]),
        began_ms=ended_ms - latency_ms,
        ended_ms=ended_ms,
        failed=failed,
        slow=bool(timed) and latency_ms > config.slow_ms,
    )
