"""A partition in memory: tasks in, decisions out, outcomes back. The rules' tests read as sentences with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid5

import orjson

from services.policy.decide import Owner
from services.policy.desk import Desk
from services.policy.inputs import Input
from services.policy.state import Account, Circumstances, PolicyConfig
from services.policy.turn import Turn
from shared.control_state import ControlState, evolve
from shared.events.control import parse_control
from shared.events.decisions import BreakerChanged, ReservationEnded, TaskAllowed, TaskBlocked
from shared.events.envelope import NAMESPACE, Envelope, Payload, follow, new
from shared.events.outcomes import AttemptResolved, DecisionExpired, TaskFailed, TaskSucceeded, Usage
from shared.events.tasks import Task, TaskRef, TaskSubmitted, TaskType, task_id_of
from shared.money import NANOCENTS_PER_CENT

TENANT = UUID("11111111-1111-4111-8111-111111111111")
ALICE = Owner(TENANT, UUID("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"))
BOB = Owner(TENANT, UUID("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"))
START_MS = 1_795_000_000_000  # 2026-11-18T09:46:40Z
P = TypeVar("P", bound=Payload)
CENT = NANOCENTS_PER_CENT

CONFIG = PolicyConfig(
    monthly_cap=2500 * CENT,
    hourly_threshold=500 * CENT,
    max_in_flight=1000,
    failure_threshold=3,
    open_ms=300_000,
    half_open_probes=1,
    decision_ttl_ms=60_000,
    timeout_ms=10_000,
    default_max_output_tokens=1024,
    unpriced_worst_case=None,
)


@dataclass
class World:
    """One partition's policy, with a clock that the test moves."""

    config: PolicyConfig = CONFIG
    now_ms: int = START_MS
    control: ControlState = field(default_factory=ControlState)
    max_parked: int = 10_000
    rules_may_fail: bool = False
    desk: Desk = field(default_factory=Desk)
    log: list[Envelope] = field(default_factory=list)
    serial: int = 0

    def order(self, **event: Any) -> None:
        """An operator publishes a control event."""
        self.serial += 1
        self.control = evolve(self.control, f"{self.now_ms}-{self.serial}", parse_control(orjson.dumps(event)))
        self._turn(lambda turn: turn.reconsider(list(self.desk.parked)))

    def reconcile(self, allowed: TaskAllowed, cents: str, tenant_id: UUID = TENANT) -> list[Payload]:
        """An operator says what an uncertain attempt came to."""
        about = {"tenant_id": str(tenant_id), "decision_id": str(allowed.reservation.reservation_id)}
        before = self.control.position
        self.order(type="attempt.reconciled", cost_cents=cents, reason="invoice", actor="ann", **about)
        return self._turn(lambda turn: turn.act(self.control.acts_since(before)))

    def new_turn(self) -> Turn:
        """A turn over the desk as it is; what it changes in memory stays."""
        return Turn(self.desk, Circumstances(self.now_ms, self.config, self.control), self.max_parked)

    def task(self, owner: Owner = ALICE, request_id: str | None = None, **fields: Any) -> Envelope:
        """A submitted task, not yet delivered."""
        self.serial += 1
        request_id = request_id or f"request-{self.serial}"
        known = {
            "task_id": task_id_of(owner.tenant_id, TaskType.ROUTE, request_id),
            "request_id": request_id,
            "task_type": TaskType.ROUTE,
            "provider": "stub",
            "model": "model",
            "prompt": {},
            "fingerprint": "f" * 64,
            "max_cost": CENT,
        }
        payload = TaskSubmitted(task=Task(**{**known, **fields}))
        return new(
            payload,
            event_id=uuid5(NAMESPACE, f"submitted {self.serial}"),
            source="/skeldir/gateway",
            subject=str(payload.task.task_id),
            now_ms=self.now_ms,
            tenantid=owner.tenant_id,
            userid=owner.user_id,
        )

    def deliver(self, *events: Envelope) -> list[Payload]:
        """One turn over these tasks; what policy said."""
        inputs = [self._input("tasks", event) for event in events]
        return self._turn(lambda turn: turn.tasks(inputs))

    def submit(self, owner: Owner = ALICE, **fields: Any) -> Payload | None:
        """Submit one task; its verdict, or None while it waits."""
        said = self.deliver(self.task(owner, **fields))
        return next((one for one in said if isinstance(one, TaskAllowed | TaskBlocked)), None)

    def allow(self, owner: Owner = ALICE, **fields: Any) -> TaskAllowed:
        """Submit one task that must be allowed."""
        verdict = self.submit(owner, **fields)
        assert isinstance(verdict, TaskAllowed), verdict
        return verdict

    def succeed(self, allowed: TaskAllowed, cost: int = 0, *, cached: bool = False) -> list[Payload]:
        """The provider (or the cache) answered."""
        usage = Usage(cost=cost)
        return self.end(
            allowed,
            TaskSucceeded(
                task=ref(allowed.task),
                decision_id=allowed.reservation.reservation_id,
                was_cached=cached,
                provider_attempted=not cached,
                output_text="",
                usage=usage,
            ),
        )

    def fail(self, allowed: TaskAllowed, spend: str = "none", *, counts: bool = True, cost: int = 0) -> list[Payload]:
        """The call failed."""
        return self.end(
            allowed,
            TaskFailed(
                task=ref(allowed.task),
                decision_id=allowed.reservation.reservation_id,
                reason="provider_error:ServerError",
                provider_attempted=True,
                counts_for_breaker=counts,
                spend=spend,
                usage=Usage(cost=cost),
            ),
        )

    def resolve(self, allowed: TaskAllowed, cost: int) -> list[Payload]:
        """An uncertain attempt turned out to have cost this much."""
        return self.end(
            allowed,
            AttemptResolved(
                task=ref(allowed.task),
                decision_id=allowed.reservation.reservation_id,
                spend="certain",
                usage=Usage(cost=cost),
                by="late_result",
            ),
        )

    def expire(self, allowed: TaskAllowed) -> list[Payload]:
        """The executor did not come to it in time."""
        decision_id = allowed.reservation.reservation_id
        return self.end(allowed, DecisionExpired(task=allowed.task, decision_id=decision_id))

    def end(self, allowed: TaskAllowed, payload: Payload) -> list[Payload]:
        """Deliver an outcome of an allowed task."""
        self.serial += 1
        decision = next(one for one in reversed(self.log) if one.data is allowed)
        event = follow(decision, payload, source="/skeldir/executor", now_ms=self.now_ms, ordinal=self.serial)
        inputs = [self._input("outcomes", event)]
        return self._turn(lambda turn: turn.outcomes(inputs))

    def account(self, owner: Owner = ALICE) -> Account:
        """The user's account."""
        return self.desk.accounts.get((owner.tenant_id, owner.user_id), Account())

    def reserved(self, owner: Owner = ALICE) -> int:
        """Nanocents reserved in all months."""
        return sum(bucket.reserved for bucket in self.account(owner).months.values())

    def spent(self, owner: Owner = ALICE) -> int:
        """Nanocents spent in the months that are remembered."""
        return sum(bucket.spent for bucket in self.account(owner).months.values())

    def _input(self, stream: Any, event: Envelope) -> Input:
        self.serial += 1
        return Input(stream, f"{self.now_ms}-{self.serial}", event)

    def _turn(self, work: Any) -> list[Payload]:
        for owner in (ALICE, BOB):
            self.desk.accounts.setdefault((owner.tenant_id, owner.user_id), Account())
            self.desk.accounts.setdefault((owner.tenant_id, None), Account())
        turn = self.new_turn()
        work(turn)
        failed = [reason for _, reason in turn.changes.dead if reason.startswith("policy failed")]
        assert self.rules_may_fail or not failed, turn.changes.dead
        self.log += turn.changes.events
        return [event.data for event in turn.changes.events]


def ref(task: TaskRef) -> TaskRef:
    """What later events repeat of a task."""
    return TaskRef(**{name: getattr(task, name) for name in TaskRef.model_fields})


def blocked(world: World) -> list[str]:
    """Why tasks were blocked, in order."""
    return [str(event.data.reason) for event in world.log if isinstance(event.data, TaskBlocked)]


def only(said: list[Payload], kind: type[P]) -> P:
    """The one event of that type."""
    (found,) = [one for one in said if isinstance(one, kind)]
    return found


def reason(verdict: Payload | None) -> str:
    """Why a task was blocked."""
    assert isinstance(verdict, TaskBlocked), verdict
    return str(verdict.reason)


__all__ = [
    "ALICE",
    "BOB",
    "CENT",
    "CONFIG",
    "START_MS",
    "TENANT",
    "BreakerChanged",
    "ReservationEnded",
    "TaskAllowed",
    "TaskBlocked",
    "World",
    "blocked",
    "only",
    "reason",
    "ref",
]
