"""`docs/reference/events.md`: every stream and every event, from the models that read and write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from shared.events import schemas
from shared.events.control import CONTROL_EVENTS
from shared.events.envelope import Envelope, Payload
from shared.events.registry import EVENTS
from shared.partitions import CONTROL, DEAD_LETTERS, INBOX, REPLIES
from tests.reference.markdown import anchor, fields, shapes, table

HEAD = """\
# Events

An entry of a stream has two fields: `type`, and `data`, one JSON object. In the streams of a partition that object is
an envelope, with CloudEvents' names, around the event's own `data`. `{skeldir:p}` stands for partition `p`, whose
keys share a slot of a cluster. Amounts of money are whole nanocents (1e-9 cent). For programs there are [AsyncAPI
3](../events/asyncapi.json) and a JSON Schema of each event. `make reference` writes this page.

"""
OTHERS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    (INBOX, "Tasks, from producers in any language.", schemas.InboxTask),
    (f"{REPLIES}:<tenant>:<name>", "Results, for the producers that asked for them there.", schemas.Reply),
    (DEAD_LETTERS, "What could not be processed.", schemas.DeadLetter),
)


def page() -> str:
    """The whole page."""
    definitions: dict[str, Any] = {}
    parts = [HEAD, "## The envelope\n", fields(Envelope.model_json_schema(), without=["data"])]
    parts += _partition(definitions)
    parts += _control(definitions)
    for stream, meaning, model in OTHERS:
        parts += [f"## {stream}\n{meaning}\n\n", fields(model.model_json_schema())]
    parts += ["## Shapes\nWhat the events are made of.\n\n", *shapes(definitions)]
    return "".join(parts).rstrip("\n") + "\n"


def _partition(definitions: dict[str, Any]) -> Iterator[str]:
    payloads = {payload.event_type: payload for payload in EVENTS.payloads()}
    described: set[str] = set()
    for stream, types in schemas.STREAMS.items():
        yield f"## {stream.replace('{skeldir:0}', '{skeldir:p}')}\n{schemas.DESCRIPTIONS[stream]}"
        again = described.intersection(types)
        links = ", ".join(f"[{one}](#{anchor(one)})" for one in types if one in again)
        yield f" Also {links}, as above.\n\n" if again else "\n\n"
        for one in types:
            if one not in again:
                yield from _event(payloads[one], definitions)
        described.update(types)


def _event(payload: type[Payload], definitions: dict[str, Any]) -> Iterator[str]:
    schema = payload.model_json_schema()
    definitions |= schema.pop("$defs", {})
    name = f"{payload.event_type}.{payload.schema_version}"
    yield f"### {payload.event_type}\n{schema['description']} Version {payload.schema_version}"
    yield f" ([schema](../events/schemas/{name}.json)).\n\n{fields(schema)}"


def _control(definitions: dict[str, Any]) -> Iterator[str]:
    whole = CONTROL_EVENTS.json_schema()
    orders = {type_: ref.rpartition("/")[2] for type_, ref in whole["discriminator"]["mapping"].items()}
    definitions |= {name: one for name, one in whole["$defs"].items() if name not in orders.values()}
    meanings = {one: whole["$defs"][name]["description"] for one, name in orders.items()}
    yield f"## {CONTROL}\nOperators' orders, and how breakers of models stand; every service reads all. `data` is the"
    yield " order itself ([schema](../events/schemas/control.json)).\n\n"
    yield table(("order", "meaning"), ((f"[{one}](#{anchor(one)})", said) for one, said in meanings.items()))
    for one, name in orders.items():
        yield f"### {one}\n{meanings[one]}\n\n{fields(whole['$defs'][name], without=['type'])}"
