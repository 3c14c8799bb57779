"""AsyncAPI 3 and JSON Schemas of every stream, made from the code: `python -m shared.events.schemas`.

The channels are declared to FastStream, which writes the AsyncAPI document; each event's JSON Schema is a file beside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faststream.redis import RedisBroker, StreamSub
from faststream.specification import AsyncAPI
from pydantic import BaseModel, Field, create_model

from shared.events import control
from shared.events.control import CONTROL_EVENTS
from shared.events.envelope import Envelope, Payload
from shared.events.registry import EVENTS
from shared.partitions import CONTROL, DEAD_LETTERS, INBOX, REPLIES, Partition

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "events"
EXAMPLE = Partition(0)
STREAMS = {
    EXAMPLE.tasks: ("task.submitted",),
    EXAMPLE.decisions: (
        "task.allowed",
        "task.blocked",
        "task.downgraded",
        "reservation.ended",
        "breaker.changed",
        "shutoff.tripped",
        "limit.neared",
        "attempt.resolved",
    ),
    EXAMPLE.outcomes: (
        "attempt.started",
        "task.succeeded",
        "task.failed",
        "task.blocked",
        "attempt.resolved",
        "decision.expired",
    ),
}
DESCRIPTIONS = {
    EXAMPLE.tasks: "Accepted tasks of one partition. Written by the gateway; read by policy and ledger.",
    EXAMPLE.decisions: "What policy decided. Written by policy alone; read by executor, ledger and waiting gateways.",
    EXAMPLE.outcomes: "What became of it. Written by the executor alone; read by policy, ledger and waiting gateways.",
}


class InboxTask(BaseModel):
    """A task from any language: `XADD skeldir:inbox * data '<this>'`."""

    tenant_id: str
    user_id: str
    request_id: str
    task_type: str
    prompt: dict[str, Any]
    correlation_id: str | None = None
    max_cost_cents: float | str | None = None
    reply_to: str | None = Field(None, description="`skeldir:replies:<tenant_id>:<name>`: where the result is wanted.")


class Reply(BaseModel):
    """The end of a task, for the producer that named this stream in `reply_to`. It may come twice: go by `task_id`."""

    type: str = Field(description="`task.succeeded`, `task.failed` or `task.blocked`.")
    task_id: str
    request_id: str
    data: bytes = Field(description="The result, as JSON: what `GET /v1/tasks/{task_id}` answers.")


class DeadLetter(BaseModel):
    """What could not be processed: `data` and `type` are the entry's own bytes."""

    origin: str
    entry_id: str
    reason: str
    type: bytes | None = None
    data: bytes | None = None


def envelope_of(payload: type[Payload]) -> type[Envelope]:
    """The envelope around one payload type, for its schema."""
    name = "".join(part.capitalize() for part in payload.event_type.replace("_", ".").split("."))
    return create_model(
        f"{name}V{payload.schema_version}", __base__=Envelope, data=(payload, ...), __doc__=payload.__doc__
    )


def json_schemas() -> dict[str, dict[str, Any]]:
    """A JSON Schema for each event type and version, and one for all control events."""
    found = {
        f"{payload.event_type}.{payload.schema_version}": envelope_of(payload).model_json_schema()
        for payload in EVENTS.payloads()
    }
    found["control"] = CONTROL_EVENTS.json_schema()
    return found


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document. Partition 0 stands for all: `{skeldir:<p>}`."""
    broker = RedisBroker()
    payloads = {payload.event_type: payload for payload in EVENTS.payloads()}
    broker.publisher(
        stream=StreamSub(INBOX), title="inbox", description="Tasks, from producers in any language.", schema=InboxTask
    )
    orders = control.ControlEvent
    broker.publisher(
        stream=StreamSub(CONTROL),
        title="control",
        description="Operators' orders; every service reads all.",
        schema=orders,
    )
    broker.publisher(
        stream=StreamSub(DEAD_LETTERS),
        title="dead-letters",
        description="What could not be processed.",
        schema=DeadLetter,
    )
    broker.publisher(
        stream=StreamSub(f"{REPLIES}:<tenant>:<name>"),
        title="replies",
        description="Results, for the producers that asked for them there. Written by the gateway.",
        schema=Reply,
    )
    for stream, types in STREAMS.items():
        for event_type in types:
            broker.publisher(
                stream=StreamSub(stream),
                title=f"{stream}/{event_type}",
                description=DESCRIPTIONS[stream],
                schema=envelope_of(payloads[event_type]),
            )
    specification = AsyncAPI(
        broker,
        title="Skeldir",
        version="1",
        description="Event streams over Redis Streams. An entry has the fields `type` and `data` (one JSON object).",
        schema_version="3.0.0",
    )
    document: dict[str, Any] = json.loads(specification.to_specification().to_json())
    return document


def files() -> dict[Path, str]:
    """Each generated file and its text."""
    found = {FOLDER / "asyncapi.json": _text(asyncapi())}
    for name, schema in json_schemas().items():
        found[FOLDER / "schemas" / f"{name}.json"] = _text(schema)
    return found


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the files."""
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
