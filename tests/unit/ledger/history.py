"""Histories as the log would hold them: policy's own rules decide; gateway's and executor's events are added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid5

import orjson

from services.ledger.intake import Record, read_event, read_order
from services.ledger.projections.rows import Patch
from services.policy.decide import Owner
from services.policy.inputs import Input
from services.policy.state import Account
from shared.control_state import ControlState, order_of
from shared.events.decisions import TaskAllowed, TaskBlocked
from shared.events.envelope import NAMESPACE, Envelope, Payload, follow
from shared.events.outcomes import AttemptStarted, TaskSucceeded, Usage
from shared.events.tasks import TaskType, task_id_of
from shared.partitions import Partition
from tests.unit.policy.world import ALICE, BOB, CENT, CONFIG, START_MS, TENANT, World, ref

HOUR_MS = 3_600_000
OWNERS = (ALICE, BOB)
TYPES = tuple(TaskType)
TENANT_SCOPE = {"tenant_id": str(TENANT)}

Op = tuple[str, int, int]
"""What happens, and two numbers that say to whom and how much."""


@dataclass
class History(World):
    """A world that keeps every event with its stream, tasks and outcomes included."""

    owners: tuple[Owner, ...] = OWNERS
    entries: list[tuple[str, str, Envelope]] = field(default_factory=list)
    orders: list[tuple[str, bytes]] = field(default_factory=list)
    live: list[tuple[Owner, TaskAllowed]] = field(default_factory=list)
    held: list[TaskAllowed] = field(default_factory=list)
    partition: Partition = field(default_factory=lambda: Partition(0))

    def __post_init__(self) -> None:
        for owner in self.owners:
            self.desk.accounts |= {(owner.tenant_id, owner.user_id): Account(), (owner.tenant_id, None): Account()}

    def task(self, owner: Owner = ALICE, request_id: str | None = None, **fields: Any) -> Envelope:
        event = super().task(owner, request_id, **fields)
        return event.model_copy(update={"id": uuid5(owner.tenant_id, f"submitted {self.serial}")})

    def order(self, **event: Any) -> None:
        self.orders.append((f"{self.now_ms}-{self.serial + 1}", orjson.dumps(event)))  # the id that it gets there
        super().order(**event)

    def start(self, allowed: TaskAllowed, number: int = 1, **asked: str) -> None:
        """The executor notes its attempt; `asked` is another model than the decision's choice."""
        decision = next(one for one in reversed(self.log) if one.data is allowed)
        attempt = AttemptStarted(
            task=ref(allowed.task).model_copy(update=asked),
            decision_id=allowed.reservation.reservation_id,
            attempt_id=uuid5(NAMESPACE, f"attempt {self.serial}"),
            attempt_no=number,
            executor="executor-1",
        )
        self._note("outcomes", follow(decision, attempt, source="/skeldir/executor", now_ms=self.now_ms))

    def records(self) -> list[Record]:
        """The partition's events as the ledger reads them."""
        return [_record(self.partition, *entry) for entry in self.entries]

    def control_records(self) -> list[Record]:
        """The control stream's."""
        state, found = ControlState(), []
        for entry_id, data in sorted(self.orders, key=lambda one: order_of(one[0])):
            record, state = read_order(state, (entry_id.encode(), {b"data": data}))
            assert isinstance(record, Record), record
            found.append(record)
        return found

    def _input(self, stream: Any, event: Envelope) -> Input:
        self._note(stream, event)
        return super()._input(stream, event)

    def _turn(self, work: Any) -> list[Payload]:
        before = len(self.log)
        said = super()._turn(work)
        for event in self.log[before:]:
            self._note("decisions", event)
            if isinstance(event.data, TaskAllowed):
                assert event.tenantid is not None and event.userid is not None
                self.live.append((Owner(event.tenantid, event.userid), event.data))
        return said

    def _note(self, stream: str, event: Envelope) -> None:
        self.serial += 1
        self.entries.append((getattr(self.partition, stream), f"{self.now_ms}-{self.serial}", event))


def play(ops: Sequence[Op], owners: tuple[Owner, ...] = OWNERS, start_ms: int = START_MS) -> History:
    """The history that these operations make."""
    others = {"model-1": ["stub:other"]}
    config = replace(CONFIG, monthly_cap=40 * CENT, hourly_threshold=10 * CENT, fallbacks=others)
    history = History(config=config, owners=owners, now_ms=start_ms)
    for name, who, amount in ops:
        history.now_ms += 1 + amount * 7
        _OPS[name](history, who, amount)
    return history


def _submit(history: History, who: int, amount: int) -> None:
    owner, kind = history.owners[who % len(history.owners)], TYPES[amount % len(TYPES)]
    request_id = f"request-{history.serial}"
    history.submit(
        owner,
        request_id=request_id,
        task_id=task_id_of(owner.tenant_id, kind, request_id),
        task_type=kind,
        model=f"model-{who % 2}",
        max_cost=CENT * (amount % 5) + 1,
        cache_key="k" * 64 if amount % 3 == 0 else None,
    )


def _ended(end: Callable[[History, TaskAllowed, int], object]) -> Callable[[History, int, int], None]:
    def step(history: History, who: int, amount: int) -> None:
        if history.live:
            _, allowed = history.live.pop(who % len(history.live))
            end(history, allowed, amount)

    return step


def _succeed(history: History, allowed: TaskAllowed, amount: int) -> None:
    history.start(allowed)
    success = TaskSucceeded(
        task=ref(allowed.task),
        decision_id=allowed.reservation.reservation_id,
        was_cached=False,
        provider_attempted=True,
        output_text=f"answer {amount} \x00",
        reasoning_trace={"steps": ["\x00"]},
        response_metadata={"boundary_id": "b07_p3_aisuite_chokepoint"},
        usage=Usage(cost=amount * CENT // 4, latency_ms=amount, input_tokens=amount, output_tokens=1),
    )
    history.end(allowed, success)


def _fail(history: History, allowed: TaskAllowed, amount: int) -> None:
    history.start(allowed)
    spend = ("none", "certain", "uncertain")[amount % 3]
    history.fail(allowed, spend, cost=CENT if spend == "certain" else 0)
    if spend == "uncertain":
        history.held.append(allowed)


def _stop(history: History, allowed: TaskAllowed, _: int) -> None:
    blocked = TaskBlocked(
        task=ref(allowed.task),
        reason="provider_kill_switch",
        rule="executor",
        breaker_state=allowed.breaker_state,
        decision_id=allowed.reservation.reservation_id,
        control_position="0-0",
    )
    history.end(allowed, blocked)


def _resolve(history: History, who: int, amount: int) -> None:
    if history.held:
        history.resolve(history.held.pop(who % len(history.held)), amount * CENT // 3)


def _order(history: History, who: int, amount: int) -> None:
    owner = history.owners[who % len(history.owners)]
    user = {"tenant_id": str(owner.tenant_id), "user_id": str(owner.user_id)}
    event: dict[str, Any] = (
        {"type": "shutoff.engaged", "scope": user, "reason": "enough", "minutes": 5 + amount},
        {"type": "shutoff.released", "scope": user, "reason": "again"},
        {"type": "kill_switch.engaged", "scope": {"tenant_id": user["tenant_id"]}, "reason": "stop", "actor": "ada"},
        {"type": "kill_switch.released", "scope": {"tenant_id": user["tenant_id"]}, "reason": "go"},
        {"type": "limits.set", "scope": user, "monthly_cents": amount * 10},
        {"type": "limits.set", "scope": {"tenant_id": user["tenant_id"]}, "hourly_cents": str(amount)},
    )[amount % 6]
    if amount == 20:  # calls go to the other model from then on
        budget = {"window": "hour", "percent": 1 + 10 * who, "to": "stub:model-1"}
        event = {"type": "downgrade.set", "scope": {"tenant_id": user["tenant_id"]}, "model": "model-0", **budget}
    history.order(**event if amount < 12 or amount == 20 else _quota_order(user, who, amount))


def _quota_order(user: dict[str, str], who: int, amount: int) -> dict[str, Any]:
    return (
        {"type": "quota.set", "scope": user, "window": "day", "tokens": 150 * amount},
        {"type": "quota.set", "scope": {**user, "task_type": TYPES[who % 4]}, "max_in_flight": 1 + who},
        {"type": "quota.set", "scope": {"tenant_id": user["tenant_id"]}, "window": "minute", "cents": amount},
        {"type": "quota.set", "scope": {**user, "model": "model-0"}, "window": "hour", "calls": who, "mode": "shadow"},
        {"type": "quota.unset", "scope": user, "window": "day", "unit": "tokens"},
    )[amount % 5]


def _wait(history: History, who: int, amount: int) -> None:
    history.now_ms += HOUR_MS * (24 * 20 if who == 0 else 1) + amount


_OPS: dict[str, Callable[[History, int, int], None]] = {
    "submit": _submit,
    "succeed": _ended(_succeed),
    "cached": _ended(lambda history, allowed, _: history.succeed(allowed, cached=True)),
    "fail": _ended(_fail),
    "stop": _ended(_stop),
    "expire": _ended(lambda history, allowed, _: history.expire(allowed)),
    "resolve": _resolve,
    "order": _order,
    "wait": _wait,
}
NAMES = (*_OPS, "submit", "submit", "succeed", "succeed")


def patches(records: Sequence[Record], seen: set[Any]) -> list[Patch]:
    """What the ledger projects of a batch: the patches of events that it had not seen."""
    found: list[Patch] = []
    for record in records:
        if record.id not in seen:
            seen.add(record.id)
            found += record.patches
    return found


def _record(partition: Partition, stream: str, entry_id: str, event: Envelope) -> Record:
    found = read_event(partition.number, stream, (entry_id.encode(), {b"data": event.to_json()}))
    assert isinstance(found, Record), found
    return found


__all__ = [
    "ALICE",
    "BOB",
    "CENT",
    "HOUR_MS",
    "NAMES",
    "OWNERS",
    "START_MS",
    "TENANT_SCOPE",
    "History",
    "Op",
    "patches",
    "play",
]
