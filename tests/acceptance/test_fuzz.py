"""Whatever is put onto the streams that anybody may write: the services run on, and every entry is accounted for."""

from __future__ import annotations

import json
import random
from typing import Any
from uuid import uuid4

from shared.events.control import InvalidControl, KillSwitchEngaged, Scope, parse_control
from tests.stack import Stack, eventually

ENTRIES = 300
Fields = dict[bytes | str, bytes | str]


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = {"a": [value]}
    return value


SCALARS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    -(2**70),
    0.1,
    1e308,
    "",
    "x" * 5000,
    "\ud7ff\u0000",
    [],
    {},
    [[]],
    "NaN",
    "1e999999",
)


def scalar(dice: random.Random) -> Any:
    return dice.choice(SCALARS)


def mangled(known: dict[str, Any], dice: random.Random) -> Any:
    """A document that was right, with one thing of it wrong; or something else altogether."""
    name = dice.choice(list(known))
    match dice.randrange(5):
        case 0:
            return {**known, name: scalar(dice)}
        case 1:
            return {key: value for key, value in known.items() if key != name}
        case 2:
            return {**known, "unheard_of": scalar(dice)}
        case 3:
            return {**known, name: nested(dice.choice([3, 60, 300]))}
        case _:
            return scalar(dice)


def entry(known: dict[str, Any], dice: random.Random) -> Fields:
    match dice.randrange(6):
        case 0:
            return {"data": dice.randbytes(dice.randrange(200))}
        case 1:
            return {dice.randbytes(5): dice.randbytes(20), "type": "task.submitted"}
        case 2:
            text = json.dumps(known)
            return {"data": text[: dice.randrange(len(text))]}
        case 3:
            return {"data": "[" * 100_000}
        case _:
            return {"data": json.dumps(mangled(known, dice)), "type": dice.choice(["", "task.submitted", "\x00"])}


def task(stack: Stack, user: str) -> dict[str, Any]:
    known = {"tenant_id": stack.ready["tenant_id"], "user_id": user, "request_id": str(uuid4()), "max_cost_cents": 1}
    return {**known, "task_type": "route", "prompt": {"text": "x"}}


def set_aside(stack: Stack, origin: str) -> set[bytes]:
    letters: Any = stack.redis().xrange("skeldir:dead-letters")
    return {fields[b"entry_id"] for _, fields in letters if fields[b"origin"] == origin.encode()}


def unsettled(stack: Stack, stream: str, group: str) -> int:
    """Entries of the stream that the group has not dealt with yet."""
    (about,) = [one for one in stack.redis().xinfo_groups(stream) if one["name"] == group.encode()]
    assert about["lag"] is not None, "nothing is taken out of it"
    return int(about["pending"]) + int(about["lag"])


def stops_everything(data: Any) -> bool:
    """A switch without a scope: it is understood, and none of this test's business."""
    try:
        order = parse_control(data)
    except (InvalidControl, ValueError):
        return False
    return isinstance(order, KillSwitchEngaged) and order.scope == Scope()


def test_the_inbox_takes_anything(stack: Stack) -> None:
    dice, log, user = random.Random(11), stack.redis(), str(uuid4())
    pids = stack.ready["pids"]
    sent = []
    for _ in range(ENTRIES):
        sent.append(log.xadd("skeldir:inbox", entry(task(stack, user), dice)))
    # Its group's lag is not known while what was dealt with is taken out.
    eventually(lambda: not log.xlen("skeldir:inbox"), "all is dealt with, and gone", 60)
    refused = set_aside(stack, "skeldir:inbox")
    taken = [one for one in sent if one not in refused]
    rows = "SELECT count(*) AS count FROM llm_api_calls WHERE status <> 'pending'"

    def ended() -> bool:
        # A mangled task may well name another user, so not all that were taken are this one's.
        return 0 < int(stack.rows(rows, stack.ready["tenant_id"], user)[0]["count"]) <= len(taken)

    eventually(ended, "those that are tasks have ended", 30)
    assert len(refused & set(sent)) + len(taken) == ENTRIES and len(taken) < ENTRIES / 3
    assert stack.ready["pids"] == pids, "no service fell over it"
    assert stack.run()["status"] == "success"


def test_the_control_stream_takes_anything(stack: Stack) -> None:
    dice, log = random.Random(12), stack.redis()
    pids = stack.ready["pids"]
    tenant = {"tenant_id": str(uuid4())}
    scope = {**tenant, "user_id": str(uuid4())}
    about = {"tenant_id": str(uuid4()), "decision_id": str(uuid4())}
    orders: list[dict[str, Any]] = [
        {"type": "kill_switch.engaged", "scope": scope, "reason": "fuzz", "actor": "fuzz"},
        {"type": "shutoff.engaged", "scope": scope, "reason": "fuzz", "minutes": 1},
        {"type": "limits.set", "scope": scope, "monthly_cents": 5, "hourly_cents": "0.1", "max_in_flight": 3},
        {"type": "quota.set", "scope": {**scope, "key_id": "fuzz"}, "window": "day", "cents": "0.1", "mode": "shadow"},
        {"type": "bounds.set", "scope": {"task_type": "route", **tenant}, "timeout_ms": 9, "max_cost_cents": "0.1"},
        {"type": "downgrade.set", "scope": tenant, "model": "*", "to": "stub:b", "percent": 9, "window": "hour"},
        {"type": "quota.unset", "scope": scope, "window": "day", "unit": "calls"},
        {"type": "attempt.reconciled", **about, "cost_cents": 1, "reason": "x"},
        {"type": "dead_letter.retried", "origin": "{skeldir:0}:tasks", "entry_id": "1-1"},
        {"type": "key.revoked", "key_id": "key_nobody"},
    ]
    sent = []
    for _ in range(ENTRIES):
        fields = entry(orders[dice.randrange(len(orders))], dice)
        if not stops_everything(fields.get("data")):
            sent.append(log.xadd("skeldir:control", fields))
    eventually(lambda: not unsettled(stack, "skeldir:control", "control-check"), "all is read", 60)
    refused = set_aside(stack, "skeldir:control") & set(sent)
    assert len(sent) / 2 < len(refused) < len(sent)
    assert stack.ready["pids"] == pids, "no service fell over it"
    assert stack.run()["status"] == "success"
    stack.cli("ledger", "verify")
