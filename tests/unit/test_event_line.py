"""`skeldir tail`: which events it shows, and how; also of what is no event."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policy.decide import Owner
from skeldir.cli import event_line
from tests.unit.ledger.history import play

TENANT, OTHER = UUID(int=1), UUID(int=2)


def order(**fields: Any) -> dict[str, Any]:
    return {"type": "kill_switch.engaged", "reason": "runaway", "actor": "ann", **fields}


def test_every_event_of_a_history_is_a_line_without_prompt_or_answer() -> None:
    ops = [("submit", 0, 3), ("succeed", 0, 8), ("submit", 0, 1), ("fail", 0, 2), ("submit", 0, 1), ("fail", 0, 2)]
    history = play(ops, (Owner(TENANT, uuid4()), Owner(TENANT, uuid4())))
    lines = {}
    for record in history.records():
        event = event_line.read((b"5-0", {b"data": record.body.encode()}))
        assert event_line.concerns(event, TENANT, None) and not event_line.concerns(event, OTHER, None)
        lines[record.type] = event_line.said(event)
        assert "prompt" not in lines[record.type]
        assert "prompt" not in event_line.without_prompt(event)["data"].get("task", {})
        if record.type.startswith("task."):
            request = orjson.loads(record.body)["data"]["task"]["request_id"]
            assert event_line.where(event) == request
            assert event_line.concerns(event, None, request) and not event_line.concerns(event, None, "another")
    assert "cost=" in lines["task.succeeded"] and "latency=" in lines["task.succeeded"]
    assert "how=" in lines["reservation.ended"] and "settled=" in lines["reservation.ended"]
    assert "state=" in lines["breaker.changed"]


def test_an_order_is_shown_to_whom_it_concerns() -> None:
    everything, mine, named = order(scope={}), order(scope={"tenant": str(TENANT)}), order(tenant_id=str(TENANT))
    assert [event_line.concerns(one, TENANT, None) for one in (everything, mine, named)] == [True] * 3
    assert [event_line.concerns(one, OTHER, None) for one in (everything, mine, named)] == [True, False, False]
    assert event_line.said(everything) == "reason=runaway scope=everything actor=ann"
    assert event_line.said(order(scope={"provider": "openai"})) == "reason=runaway scope=provider:openai actor=ann"


def test_what_an_order_about_bounds_or_models_says() -> None:
    bounds = {"type": "bounds.set", "timeout_ms": 9, "max_cost_cents": "0.1", "max_tool_calls": 0}
    assert event_line.said(bounds) == "timeout_ms=9 max_cost_cents=0.1 max_tool_calls=0"
    moved = {"type": "downgrade.set", "percent": 80, "model": "gpt-4o*", "to": "openai:gpt-4o-mini"}
    assert event_line.said(moved) == "percent=80 model=gpt-4o* to=openai:gpt-4o-mini"


def test_limits_are_said_in_their_unit() -> None:
    neared = {"window": "day", "percent": 80, "spent": 80 * 10**9, "cap": 100 * 10**9}
    event = {"type": "limit.neared", "dataschema": "x", "tenantid": str(TENANT), "data": neared}
    assert event_line.said(event) == "percent=80 window=day spent=80c cap=100c"
    assert "spent=80000000000 " in event_line.said({**event, "data": {**neared, "unit": "tokens"}})


def test_nothing_reaches_the_terminal_but_text() -> None:
    said = event_line.said(order(scope={}, reason="\x1b[2J\nforged line [red]" + "x" * 1000))
    assert said.isprintable() and len(said) < 400


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"7", b'{"type": 5}', b'{"data": [], "dataschema": 1, "scope": []}']
)
def test_what_is_no_event_is_a_line_too(data: bytes) -> None:
    show(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["task", "data", "dataschema", "scope", "usage", "cost", "spent", "unit", "request_id"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(_JSON)
def test_whatever_json_is_a_line_too(value: Any) -> None:
    show(orjson.dumps(value))


def show(data: bytes) -> None:
    event = event_line.read((b"5-0", {b"data": data}))
    assert event_line.concerns(event, None, None)
    event_line.concerns(event, TENANT, "a request")
    assert event_line.plain(event.get("type")).isprintable()
    assert event_line.where(event).isprintable() and event_line.said(event).isprintable()
    orjson.dumps(event_line.without_prompt(event))
