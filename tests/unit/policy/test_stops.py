"""Kill switches and shutoffs: they hold before anything else, and end as they began."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson

from shared.control_state import stops_nothing
from shared.events.control import parse_control
from tests.unit.policy.world import ALICE, BOB, CENT, CONFIG, START_MS, TaskAllowed, World, blocked, reason

MINUTE = 60_000


def test_a_switch_without_scope_stops_everybody() -> None:
    world = World()
    world.order(type="kill_switch.engaged", reason="runaway", actor="ann")
    assert reason(world.submit(ALICE)) == reason(world.submit(BOB)) == "provider_kill_switch"
    world.order(type="kill_switch.released", reason="calm", actor="ann")
    assert isinstance(world.submit(ALICE), TaskAllowed)


def test_every_part_of_a_scope_must_match() -> None:
    world = World()
    scope = {"tenant_id": str(ALICE.tenant_id), "user_id": str(ALICE.user_id), "model": "stub:dear"}
    world.order(type="kill_switch.engaged", scope=scope, reason="too dear", actor="ann")
    assert reason(world.submit(ALICE, model="dear")) == "provider_kill_switch"
    assert isinstance(world.submit(ALICE, model="cheap"), TaskAllowed)
    assert isinstance(world.submit(BOB, model="dear"), TaskAllowed)


def test_releasing_another_scope_releases_nothing() -> None:
    world = World()
    world.order(type="kill_switch.engaged", reason="runaway", actor="ann")
    world.order(type="kill_switch.released", scope={"provider": "stub"}, reason="no", actor="bob")
    assert reason(world.submit()) == "provider_kill_switch"


def test_a_switch_with_an_end_ends() -> None:
    world = World()
    until = datetime.fromtimestamp(START_MS / 1000 + 60, UTC).isoformat()
    world.order(type="kill_switch.engaged", reason="maintenance", actor="ann", until=until)
    assert reason(world.submit()) == "provider_kill_switch"
    world.now_ms += MINUTE
    assert isinstance(world.submit(), TaskAllowed)


def test_an_order_to_stop_that_has_ended_is_known() -> None:
    def order(**fields: object) -> bool:
        scope = {"tenant_id": str(ALICE.tenant_id), "user_id": str(ALICE.user_id)}
        said = {"reason": "r", "actor": "ann", "scope": scope, **fields}
        return stops_nothing(parse_control(orjson.dumps(said)), START_MS)

    now = datetime.fromtimestamp(START_MS / 1000, UTC)
    later = (now + timedelta(milliseconds=1)).isoformat()
    for kind in ("kill_switch.engaged", "shutoff.engaged"):
        assert order(type=kind, until=now.isoformat()) and order(type=kind, until=5)
        assert not order(type=kind) and not order(type=kind, until=later)
    assert order(type="shutoff.engaged", minutes=1e-9)
    assert not order(type="kill_switch.released")


def test_a_task_may_ask_for_its_own_stop() -> None:
    assert reason(World().submit(kill_switch=True)) == "provider_kill_switch"


def test_a_shutoff_blocks_one_user_with_the_operators_words() -> None:
    world = World()
    scope = {"tenant_id": str(ALICE.tenant_id), "user_id": str(ALICE.user_id)}
    world.order(type="shutoff.engaged", scope=scope, reason="card reported stolen", actor="ann", minutes=30)
    assert reason(world.submit(ALICE)) == "card reported stolen"
    assert isinstance(world.submit(BOB), TaskAllowed)
    world.now_ms += 30 * MINUTE
    assert isinstance(world.submit(ALICE), TaskAllowed)


def test_a_shutoff_without_an_end_lasts_until_the_hour_ends() -> None:
    world = World()
    scope = {"tenant_id": str(ALICE.tenant_id), "user_id": str(ALICE.user_id)}
    world.order(type="shutoff.engaged", scope=scope, reason="enough", actor="ann")
    world.now_ms = (START_MS // 3_600_000 + 1) * 3_600_000 - 1
    assert reason(world.submit(ALICE)) == "enough"
    world.now_ms += 1
    assert isinstance(world.submit(ALICE), TaskAllowed)


def test_a_blocked_task_reserves_nothing_and_releases_nothing() -> None:
    """The replaced system released 180 cents that it had never reserved, and spent them."""
    world = World()
    live = world.allow(max_cost=100 * CENT)
    scope = {"tenant_id": str(ALICE.tenant_id), "user_id": str(ALICE.user_id)}
    world.order(type="shutoff.engaged", scope=scope, reason="enough", actor="ann")
    for _ in range(5):
        assert reason(world.submit(max_cost=100 * CENT)) == "enough"
    assert world.reserved() == live.reservation.amount == 100 * CENT


def test_a_switch_stops_a_task_that_was_held_back() -> None:
    world = World(config=replace(CONFIG, failure_threshold=1))
    world.allow()
    assert world.submit() is None, "one call is out already, the second waits for its outcome"
    world.order(type="kill_switch.engaged", reason="runaway", actor="ann")
    assert blocked(world) == ["provider_kill_switch"]
    assert not world.desk.parked


def test_a_switch_for_another_tenant_changes_nothing() -> None:
    world = World()
    scope = {"tenant_id": str(UUID(int=7))}
    world.order(type="kill_switch.engaged", scope=scope, reason="theirs", actor="ann")
    assert isinstance(world.submit(), TaskAllowed)
