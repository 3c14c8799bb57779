"""Guards: a detector's finding blocks, where the tenant wants that; and nothing tells what was found."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shared.events.control import InvalidControl, parse_control
from shared.events.decisions import TaskBlocked
from tests.unit.policy.world import TENANT, World, reason

SCOPE = {"tenant_id": str(TENANT)}
CARD = "4111 1111 1111 1111"


def guarded(*detectors: str) -> World:
    world = World()
    world.order(type="privacy.set", scope=SCOPE, block=list(detectors), actor="ann")
    return world


def test_a_finding_blocks_and_is_not_told() -> None:
    world = guarded("card", "email")
    prompt = {"messages": [{"content": [{"type": "text", "text": f"pay by {CARD}, {CARD}"}]}], "user": "a@b.example"}
    blocked = world.submit(prompt=prompt)
    assert isinstance(blocked, TaskBlocked)
    assert (blocked.reason, blocked.rule) == ("guard_card", "guard")
    assert blocked.explanation == {"detectors": {"card": 2, "email": 1}}
    assert "4111" not in blocked.model_dump_json()


def test_only_what_the_tenant_named_blocks_until_it_is_taken_back() -> None:
    world = guarded("email")
    world.allow(prompt={"text": CARD})
    assert reason(world.submit(prompt={"text": "a@b.example"})) == "guard_email"
    world.order(type="privacy.set", scope=SCOPE, store="none", actor="ann")
    assert reason(world.submit(prompt={"text": "a@b.example"})) == "guard_email", "what is not given stays as it was"
    world.order(type="privacy.set", scope=SCOPE, block=[], actor="ann")
    world.allow(prompt={"text": "a@b.example"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scope": {}}, "give tenant_id"),
        ({"scope": {**SCOPE, "task_type": "route"}}, "do not apply"),
        ({"block": ["names"]}, "block"),
        ({"store": "some"}, "store"),
        ({"block": None}, "give store, block, or both"),
    ],
)
def test_an_order_that_makes_no_sense_says_why(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidControl, match=said):
        parse_control(orjson.dumps({"type": "privacy.set", "scope": SCOPE, "block": ["card"], **wrong}))
