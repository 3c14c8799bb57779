"""Events survive their way through the log; old ones are lifted, unknown ones refused."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID, uuid4, uuid5

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events.envelope import Envelope, Payload, named_id, new
from shared.events.outcomes import Usage
from shared.events.prices import Prices
from shared.events.registry import EVENTS, Registry, UndecodableEvent

JSON = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), max_size=3
)
RATE = st.decimals(0, 1000, places=5).map(str)
PRICES = st.builds(
    Prices,
    source=st.text(max_size=5),
    rates=st.dictionaries(st.text(max_size=5), RATE | st.lists(st.tuples(st.integers(0, 9), RATE)), max_size=3),
)
USAGE = st.builds(
    Usage,
    tokens=st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3),
    prices=st.none() | PRICES,
)
TYPES = sorted(EVENTS.payloads(), key=lambda payload: payload.event_type)


def enveloped(payload: Payload) -> Envelope:
    return new(payload, event_id=uuid4(), source="/test", subject="s", now_ms=1_795_000_000_000, tenantid=uuid4())


@pytest.mark.parametrize("payload", TYPES, ids=lambda payload: payload.event_type)
def test_every_event_comes_back_as_it_was(payload: type[Payload]) -> None:
    st.register_type_strategy(dict, lambda _: JSON)
    st.register_type_strategy(Prices, PRICES)
    st.register_type_strategy(Usage, USAGE)
    st.register_type_strategy(int, st.integers(-(2**53), 2**53))

    @given(st.builds(payload))
    def round_trip(event: Payload) -> None:
        sent = enveloped(event)
        assert EVENTS.decode(sent.to_json()) == sent
        newer = orjson.loads(sent.to_json())
        for place in (newer, newer["data"], newer["data"].get("task", {})):
            place["added"] = [1]
        assert EVENTS.decode(orjson.dumps(newer)) == sent

    round_trip()


@given(st.uuids(), st.text())
def test_an_id_that_is_derived_is_the_standard_librarys(namespace: UUID, name: str) -> None:
    """It is in the logs of all releases: a repeat is seen by it."""
    assert named_id(namespace, name) == uuid5(namespace, name)


class GreetingV3(Payload):
    """Version 1 had `name`, version 2 `who`, version 3 says in which language."""

    event_type: ClassVar[str] = "greeting"
    schema_version: ClassVar[int] = 3

    who: str
    language: str


def greetings() -> Registry:
    registry = Registry()
    registry.add(GreetingV3, {1: lambda old: {"who": old["name"]}, 2: lambda old: {**old, "language": "en"}})
    return registry


def stored(version: int | str, **data: Any) -> bytes:
    raw = orjson.loads(enveloped(GreetingV3(who="", language="")).to_json())
    return orjson.dumps({**raw, "dataschema": f"urn:skeldir:event:greeting:{version}", "data": data})


def test_an_old_version_is_lifted_step_by_step() -> None:
    for old in (stored(1, name="Ann"), stored(2, who="Ann"), stored(3, who="Ann", language="en")):
        assert greetings().decode(old).data == GreetingV3(who="Ann", language="en")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (None, "no field `data`"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (orjson.dumps({"type": "unheard.of"}), "unknown event type 'unheard.of'"),
        (orjson.dumps({"type": ["a", "list"]}), "unknown event type"),
        (stored(4, who="Ann", language="en"), "newer than this release"),
        (stored(0, who="Ann"), "no way to lift"),
        (stored("x", who="Ann"), "does not name a version"),
        (stored(3, who="Ann"), "language: Field required"),
        (stored(1, wrong="Ann"), "cannot be lifted"),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason(data: bytes | None, complaint: str) -> None:
    with pytest.raises(UndecodableEvent, match=complaint):
        greetings().decode(data)


def test_fields_that_a_newer_release_added_are_passed_over() -> None:
    """Two releases run side by side during an upgrade; what an older one must not pass over has a new version."""
    assert greetings().decode(stored(3, who="Ann", language="en", mood="glad")).data == GreetingV3(
        who="Ann", language="en"
    )
    assert greetings().payload(stored(2, who="Ann", mood={"is": "glad"})) == GreetingV3(who="Ann", language="en")
    with pytest.raises(UndecodableEvent, match="language"):
        greetings().decode(stored(3, who="Ann", mood="glad"))


def test_event_types_and_versions_are_what_they_were() -> None:
    """They are stored for ever: a change here is a new version with an upcaster, not an edit of this list."""
    assert {payload.event_type: payload.schema_version for payload in TYPES} == {
        "attempt.resolved": 1,
        "attempt.started": 1,
        "breaker.changed": 1,
        "decision.expired": 1,
        "limit.neared": 1,
        "reservation.ended": 1,
        "shutoff.tripped": 1,
        "task.allowed": 1,
        "task.blocked": 1,
        "task.downgraded": 1,
        "task.failed": 1,
        "task.submitted": 1,
        "task.succeeded": 1,
    }


def test_an_event_names_its_time_in_utc() -> None:
    raw = orjson.loads(enveloped(GreetingV3(who="", language="")).to_json())
    assert raw["time"].endswith("Z") and UUID(raw["id"])
