"""The end that an order gives can be told in UTC, whatever its offset: else nobody could list what holds."""

from __future__ import annotations

from uuid import uuid4

import orjson
import pytest

from services.ledger.projections.control import project
from shared.control_state import ControlState, evolve
from shared.events.control import LAST_MOMENT, parse_control, to_ms
from shared.events.envelope import at

ENTRY = "1795000000000-0"
BEYOND = ["9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999999Z"]
USER = {"tenant_id": str(uuid4()), "user_id": str(uuid4())}
KEY = {"key_id": "key_1", "secret_sha256": "0" * 64, "tenant_id": str(uuid4()), "role": "auditor"}
ORDERS = [
    {"type": "kill_switch.engaged", "scope": USER},
    {"type": "shutoff.engaged", "scope": USER},
    {"type": "key.created", **KEY},
]


def ends(state: ControlState) -> list[int | None]:
    """When what holds ends."""
    switches, shutoffs, keys = state.switches.values(), state.shutoffs.values(), state.keys.values()
    return [*(one.until_ms for one in switches), *(one.until_ms for one in shutoffs), *(one.until_ms for one in keys)]


@pytest.mark.parametrize("until", BEYOND)
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: str(order["type"]))
def test_an_end_beyond_the_calendar_is_its_last_moment(order: dict[str, object], until: str) -> None:
    event = parse_control(orjson.dumps({**order, "reason": "drill", "actor": "ann", "until": until}))
    state = evolve(ControlState(), ENTRY, event)
    assert ends(state) == [to_ms(LAST_MOMENT)] and at(to_ms(LAST_MOMENT)) == LAST_MOMENT
    row = project(ControlState(), ENTRY, event)[0].row
    assert LAST_MOMENT in row.values()


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: str(order["type"]))
def test_an_end_before_it_has_passed(order: dict[str, object]) -> None:
    until = "0001-01-01T00:00:00+14:00"
    event = parse_control(orjson.dumps({**order, "reason": "drill", "actor": "ann", "until": until}))
    (end_ms,) = ends(evolve(ControlState(), ENTRY, event))
    assert end_ms is not None and at(end_ms).year == 1
    assert project(ControlState(), ENTRY, event)
