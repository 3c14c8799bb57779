"""The actors: generators that yield wherever the real service awaits the server (with the milliseconds they sleep)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any
from uuid import UUID, uuid5

import orjson

from services.executor import ends
from services.executor.delivery import Delivery, delivery_of
from services.executor.execution import (
    Expired,
    Go,
    Lost,
    Over,
    Permission,
    Record,
    Stop,
    before,
    before_call,
    permission,
    without_answer,
)
from services.executor.providers.protocol import Answer, ProviderFailure
from services.policy import store
from services.policy.commit import commands
from services.policy.decide import Owner
from services.policy.desk import Desk
from services.policy.inputs import Input, owner_of
from services.policy.partition import ENDS, INPUTS
from services.policy.rules.idempotency import TaskRecord
from services.policy.state import Circumstances
from services.policy.turn import Turn
from shared.control_acts import Act, Reconciliation
from shared.events.decisions import BreakerState
from shared.events.envelope import Envelope, Payload, new
from shared.events.registry import EVENTS
from shared.events.tasks import Task, TaskSubmitted, TaskType, task_id_of
from shared.money import NANOCENTS_PER_CENT as CENT
from shared.money import to_cents
from shared.streams.lease import Fenced
from tests.simulation.log import PARTITION, Entry
from tests.simulation.world import (
    CLAIM_IDLE_MS,
    CONFIG,
    LEASE_MS,
    MAX_ATTEMPTS,
    OWNERS,
    ControlView,
    ProviderCall,
    World,
)

Steps = Generator[int, None, None]
BATCH = 4
# A paused executor may still make the call of a decision that was given up: until it expires, and then the call's time.
RECONCILE_AFTER_MS = CONFIG.decision_ttl_ms + CONFIG.timeout_ms + 1000


class LostReply(Exception):
    """The server did what it was asked, or not: the connection is gone, and nobody knows."""


def submitted(world: World, owner: Owner, request: str, cents: int, fingerprint: str, **fields: Any) -> Envelope:
    """A task as the gateway writes it."""
    task = Task(
        task_id=task_id_of(owner.tenant_id, TaskType.ROUTE, request),
        request_id=request,
        task_type=TaskType.ROUTE,
        provider="stub",
        model="m",
        prompt={"simulated_cost_cents": cents},
        fingerprint=f"{owner.user_id}/{fingerprint}",
        max_cost=cents * CENT,
        **fields,
    )
    return new(
        TaskSubmitted(task=task),
        event_id=uuid5(task.task_id, task.fingerprint),
        source="/skeldir/gateway",
        subject=str(task.task_id),
        now_ms=world.now_ms,
        tenantid=owner.tenant_id,
        userid=owner.user_id,
    )


def client(world: World, name: str, tasks: int) -> Steps:
    """Submits tasks, some of them again, some with another body under the same id."""
    for _ in range(tasks):
        owner = world.dice.choice(OWNERS)
        request = f"r{world.dice.randrange(tasks * 2)}"
        body = "other" if world.chance(0.05) else "body"
        more = {"retry_safe": world.dice.random() < 0.3, "cache_key": "k" if world.dice.random() < 0.2 else None}
        event = submitted(world, owner, request, world.dice.randint(1, 3), body, **more)
        while True:
            try:
                said = world.log.accept(event)
                yield world.dice.randrange(300)
            except LostReply:
                continue  # as a client does: the same request again
            world.tell(name, f"submits {request} of {owner.user_id.int}: {said}")
            break


def operator(world: World, name: str) -> Steps:
    """Engages and releases the kill switch."""
    while True:
        yield world.dice.randrange(1500, 4000)
        if not world.faults:
            return
        tenant = world.dice.choice([None, OWNERS[0].tenant_id])
        _order(world, name, "kill_switch.engaged", tenant)
        world.engaged.append((world.now_ms, None, tenant))
        yield world.dice.randrange(200, 2000)
        _order(world, name, "kill_switch.released", tenant)
        since, _, _ = world.engaged.pop()
        world.engaged.append((since, world.now_ms, tenant))


def steward(world: World, name: str) -> Steps:
    """Sets quotas, changes them, and takes them back."""
    tenant = {"tenant_id": str(OWNERS[0].tenant_id)}
    user = {**tenant, "user_id": str(OWNERS[0].user_id)}
    while world.faults:
        dice = world.dice
        quota: dict[str, Any] = dice.choice(
            [
                {"scope": tenant, "window": "hour", "calls": dice.randint(2, 9)},
                {"scope": user, "window": "minute", "cents": dice.randint(2, 9)},
                {"scope": user, "window": "day", "tokens": dice.randint(200, 1500)},
                {"scope": {**tenant, "task_type": "route"}, "max_in_flight": dice.randint(1, 3)},
            ]
        )
        if dice.random() < 0.2:
            unit = next(unit for name, unit in _UNITS.items() if name in quota)
            about = {"scope": quota["scope"], "unit": unit, "window": quota.get("window")}
            _publish(world, name, {"type": "quota.unset", **about})
        else:
            mode = "shadow" if dice.random() < 0.2 else "enforce"
            _publish(world, name, {"type": "quota.set", "mode": mode, **quota})
        yield dice.randrange(500, 3000)


_UNITS = {"calls": "calls", "cents": "money", "tokens": "tokens", "max_in_flight": "in_flight"}


def breakers(world: World, name: str) -> Steps:
    """Opens the model's breaker by dice, has it half-open, and closes it: what the elected writer would publish."""
    version, before = 0, BreakerState.CLOSED
    if world.dice.random() < 0.6:
        return  # it stops what other faults need to be seen
    while True:
        yield world.dice.randrange(1000, 3000)
        if not world.faults:
            return
        for state in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED):
            version += 1
            how = {"state": state, "previous": before, "version": version}
            probes = CONFIG.provider_breakers.probes if state is BreakerState.HALF_OPEN else 0
            about = {"provider": "stub", "model": "m", **how, "probes": probes, "reason": state.value}
            _publish(world, name, {"type": "provider_breaker.changed", **about})
            world.breaker.append((world.log.control[-1][0], world.now_ms, state))
            before = state
            if state is not BreakerState.CLOSED:
                yield world.dice.randrange(600, 2500)


def bookkeeper(world: World, name: str) -> Steps:
    """Reconciles what is held, once no call for it can start or end any more: by the provider's own account."""
    since: dict[str, int] = {}
    while True:
        yield world.dice.randrange(500, 1500)
        holds = world.log.hashes.get(PARTITION.reservations, {})
        for hold_id, hold in ((one, store.decode_hold(stored)) for one, stored in list(holds.items())):
            if hold.state != "held" or world.now_ms - since.setdefault(hold_id, world.now_ms) < RECONCILE_AFTER_MS:
                continue
            cost = sum(call.cost for call in world.calls if str(call.decision_id) == hold_id)
            about = {"tenant_id": str(hold.tenant_id), "decision_id": hold_id, "cost_cents": str(to_cents(cost))}
            _publish(world, name, {"type": "attempt.reconciled", **about, "reason": "invoice"})
            since[hold_id] = world.now_ms


def _order(world: World, name: str, event_type: str, tenant: UUID | None) -> None:
    scope = {"tenant_id": str(tenant)} if tenant else {}
    _publish(world, name, {"type": event_type, "scope": scope, "reason": "drill"})


def _publish(world: World, name: str, order: dict[str, Any]) -> None:
    world.log.counter += 1
    world.log.control.append((f"{world.now_ms}-{world.log.counter}", orjson.dumps({**order, "actor": name})))
    world.tell(name, f"{order['type']} {order.get('scope') or order.get('decision_id') or 'everything'}")


def policy(world: World, name: str) -> Steps:
    """One policy writer: wants the lease, and decides while it has it."""
    control = ControlView(world)
    while True:
        try:
            token = world.log.lease(name, LEASE_MS, "take")
            yield 0
            if token:
                world.tell(name, f"leads with token {token}")
                yield from _lead(world, name, token, control)
        except Fenced:
            world.tell(name, "is fenced off")
        except LostReply:
            world.tell(name, "lost the server's reply")
        yield LEASE_MS // 4


def _lead(world: World, name: str, token: int, control: ControlView) -> Steps:
    desk, positions = _load(world)
    yield 0
    seen = ""
    while True:
        if world.log.lease(name, LEASE_MS, "renew") != token:
            raise Fenced(name)
        yield 0
        control.look()
        yield 0
        stale = control.is_stale
        pages: dict[str, list[Entry]] = {"outcomes": world.log.after("outcomes", _number(positions["outcomes"]), BATCH)}
        if not stale:
            pages["tasks"] = world.log.after("tasks", _number(positions["tasks"]), BATCH)
        inputs = [Input(stream, e.entry_id, EVENTS.decode(e.data)) for stream, page in pages.items() for e in page]  # type: ignore[arg-type]
        yield 0
        acts = [] if stale else control.state.acts_since(positions["control"])
        if not inputs and not acts and (control.state.position == seen or not desk.parked or stale):
            yield 50
            continue
        _fetch(world, desk, inputs, acts)
        yield 0
        turn = Turn(desk, Circumstances(world.now_ms, CONFIG, control.state), max_parked=50)
        turn.outcomes(one for one in inputs if one.stream == "outcomes")
        turn.act(acts)
        if not stale:
            if control.state.position != seen:
                turn.reconsider(list(desk.parked))
                seen = control.state.position
            turn.tasks(one for one in inputs if one.stream == "tasks")
        moved = {stream: page[-1].entry_id for stream, page in pages.items() if page}
        moved |= {"control": acts[-1].position} if acts else {}
        batch, _ = commands(PARTITION, turn.changes, moved, 1000)
        world.log.fenced(name, token, batch)
        # Only now: what a stale writer could not make sense of is none of its business any more.
        failed = [reason for _, reason in turn.changes.dead if reason.startswith("policy failed")]
        assert not failed, failed
        for event in turn.changes.events:
            world.tell(name, f"{event.type} {_about(event.data)}")
        yield 0
        positions |= moved


def _load(world: World) -> tuple[Desk, dict[str, str]]:
    stored = world.log.hashes.get(PARTITION.policy, {})
    positions = {name: str(stored.get(name, "0-0")) for name in INPUTS}
    desk = Desk(probes=store.decode_probes(stored.get(store.PROBES)))
    held = []
    for key, data in world.log.hashes.get(PARTITION.parked, {}).items():
        entry_id, _, stream = key.partition("/")
        held.append(Input(stream, entry_id, EVENTS.decode(data)))  # type: ignore[arg-type]
    for one in sorted(held, key=lambda one: int(one.entry_id.split("-")[0])):
        desk.park(owner_of(one.event), one)
        _fetch(world, desk, [one])
    return desk, positions


def _number(entry_id: str) -> int:
    return int(entry_id.split("-")[0])


def _fetch(world: World, desk: Desk, inputs: list[Input], acts: Sequence[Act] = ()) -> None:
    desk.records = {}
    for decision_id in (act.decision_id for act in acts if isinstance(act, Reconciliation)):
        stored = world.log.hashes.get(PARTITION.reservations, {}).get(str(decision_id))
        if stored is not None and decision_id not in desk.holds:
            desk.holds[decision_id] = store.decode_hold(stored)
        if (hold := desk.holds.get(decision_id)) is not None:
            _fetch_accounts(world, desk, Owner(hold.tenant_id, hold.user_id))
    for one in inputs:
        owner, data = owner_of(one.event), one.event.data
        _fetch_accounts(world, desk, owner)
        if isinstance(data, TaskSubmitted):
            record = world.log.record(data.task.task_id)
            desk.records[data.task.task_id] = TaskRecord(record.get("fingerprint"), record.get("state"))
        elif isinstance(data, ENDS) and data.decision_id is not None and data.decision_id not in desk.holds:
            stored = world.log.hashes.get(PARTITION.reservations, {}).get(str(data.decision_id))
            if stored is not None:
                desk.holds[data.decision_id] = store.decode_hold(stored)


def _fetch_accounts(world: World, desk: Desk, owner: Owner) -> None:
    for key in ((owner.tenant_id, owner.user_id), (owner.tenant_id, None)):
        if key not in desk.accounts:
            desk.accounts[key] = store.decode_account(world.log.strings.get(PARTITION.account(*key)))


class Executor:
    """One executor process: its reader, its janitor, and a performer for each delivery. They end together."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.control = ControlView(world)
        self.held: set[int] = set()
        self.vital = [self._follow(), self._read(), self._look_after()]
        self.parts: deque[tuple[int, Steps]] = deque((world.now_ms, part) for part in self.vital)

    def _follow(self) -> Steps:
        while True:
            if self.world.chance(0.03):
                self.world.tell(self.name, "is cut off from the control stream")
                yield self.world.dice.randrange(1000, 4000)
            self.control.look()
            yield self.world.dice.randrange(10, 60)

    def _read(self) -> Steps:
        while self.control.is_stale:
            yield 10
        self._start(self.world.log.own(self.name), redelivered=True)
        while True:
            try:
                entries = self.world.log.group_read(self.name, BATCH)
                yield 0
                self._start(entries, redelivered=False)
                yield 10 if entries else 60
            except LostReply:
                self._start(self.world.log.own(self.name), redelivered=True)

    def _look_after(self) -> Steps:
        while True:
            yield CLAIM_IDLE_MS // 4
            try:
                self.world.log.keep(self.name, self.held)
                yield 0
                self._start(self.world.log.claim(self.name, CLAIM_IDLE_MS, BATCH), redelivered=True)
            except LostReply:
                continue

    def _start(self, entries: list[Entry], *, redelivered: bool) -> None:
        for entry in entries:
            if entry.number in self.held:
                continue
            event = EVENTS.decode(entry.data)
            if event.type != "task.allowed":
                self.world.log.acknowledge([entry.number])
                continue
            self.held.add(entry.number)
            delivery = delivery_of(PARTITION, entry.entry_id, event, redelivered=redelivered)
            self.parts.append((self.world.now_ms, self._perform(delivery, entry.number)))

    def _perform(self, delivery: Delivery, number: int) -> Steps:
        try:
            yield from self._steps(delivery)
        except LostReply:
            self.world.tell(self.name, f"lost the server's reply about {delivery.ref.request_id}")
        finally:
            self.held.discard(number)

    def _steps(self, delivery: Delivery) -> Steps:
        if delivery.redelivered:
            stored = self.world.log.record(delivery.ref.task_id)
            record = Record(
                decision=str(stored.get("decision", "")),
                state=str(stored.get("state", "")),
                owner=str(stored.get("owner", "")),
                lost=int(stored.get("lost", 0)),
            )
            yield 0
            match before(delivery, record, MAX_ATTEMPTS):
                case Over():
                    self.world.log.acknowledge([int(delivery.entry_id.split("-")[0])])
                    return
                case Lost(owner, again):
                    end: Payload = ends.expired(delivery, lost=True) if again else ends.uncertain(delivery, owner)
                    self._finish(delivery, owner, end, lost=again)
                    yield 0
                    return
                case _:
                    pass
        refused = self._refused(delivery, permission)
        if refused is None and isinstance(stop := without_answer(delivery, self.control.state), Stop):
            refused = ends.blocked(delivery, stop, self.control.state.position)
        if refused is not None:
            self._finish(delivery, "", refused)
            yield 0
            return
        begun = delivery.follow(ends.started(delivery, 1, self.name), self.world.now_ms, 1)
        said, _ = self.world.log.begin(delivery, self.name, 1, begun)
        yield 0
        if said != "begun":
            return
        yield from self._call(delivery)

    def _call(self, delivery: Delivery) -> Steps:
        # The last moment: no yield between this and the call.
        refused = self._refused(delivery, before_call)
        if refused is not None:
            self._finish(delivery, self.name, refused)
            yield 0
            return
        dice = self.world.dice
        fails = dice.random() < 0.25
        cost = 0 if fails else dice.randint(0, delivery.allowed.reservation.amount)
        owner = Owner(delivery.tenant_id, delivery.user_id)
        task = delivery.allowed.task
        self.world.calls.append(
            ProviderCall(
                self.world.now_ms, delivery.decision_id, task.task_id, owner, task.model, self.name, cost,
                self.control.state.position,
            )
        )  # fmt: skip
        self.world.tell(self.name, f"calls the provider for {task.request_id}")
        takes_ms = dice.choice([0, 5, 50, 400, 1500])
        yield min(takes_ms, delivery.allowed.timeout_ms)
        if takes_ms > delivery.allowed.timeout_ms:
            self._finish(delivery, self.name, ends.timed_out(delivery, 1, delivery.allowed.timeout_ms))
            yield takes_ms - delivery.allowed.timeout_ms
            if dice.random() < 0.7:
                spent = None if fails else ends.usage(delivery, Answer("", 1, 1, cost), takes_ms)
                self._append(delivery, ends.resolved(delivery, 1, spent, takes_ms))
            return
        if fails:
            failure = ProviderFailure("ServerError", counts_for_breaker=True)
            self._end_call(delivery, ends.failed(delivery, 1, failure, takes_ms), None)
        else:
            answer = Answer("text", 1, 1, cost)
            self._end_call(delivery, ends.succeeded(delivery, 1, answer, takes_ms), answer)
        yield 0

    def _end_call(self, delivery: Delivery, end: Payload, answer: Answer | None) -> None:
        """As `Performer._finish`: who comes too late says at least what the call cost."""
        if self._finish(delivery, self.name, end) != "done":
            spent = None if answer is None else ends.usage(delivery, answer, 0)
            self._append(delivery, ends.resolved(delivery, 1, spent, 0))

    def _finish(self, delivery: Delivery, owner: str, end: Payload, *, lost: bool = False) -> str:
        event = delivery.follow(end, self.world.now_ms)
        said, _ = self.world.log.finish(delivery, owner, event, lost=lost)
        self.world.tell(self.name, f"{event.type} {delivery.ref.request_id}: {said}")
        return said

    def _append(self, delivery: Delivery, payload: Payload) -> None:
        self.world.log.append("outcomes", delivery.follow(payload, self.world.now_ms).to_json())

    def _refused(self, delivery: Delivery, ask: Callable[..., Permission]) -> Payload | None:
        """The end of a task whose call may not start; None where it may."""
        found = ask(delivery, self.control.state, stale=self.control.is_stale, now_ms=self.world.now_ms)
        match found:
            case Go():
                return None
            case Expired():
                return ends.expired(delivery)
            case Stop():
                return ends.blocked(delivery, found, self.control.state.position)


def repeater(world: World, name: str) -> Steps:
    """The network: appends an entry a second time, as a client does that did not hear the first answer."""
    while True:
        yield world.dice.randrange(300, 2500)
        stream = world.dice.choice(["tasks", "outcomes"])
        entries = world.log.streams[stream]
        if entries and world.faults:
            world.log.append(stream, world.dice.choice(entries).data)
            world.tell(name, f"repeats an entry of {stream}")


def _about(payload: Payload) -> str:
    task = getattr(payload, "task", None)
    request = task.request_id if task is not None else ""
    reason = getattr(payload, "reason", "") or getattr(payload, "how", "")
    return f"{request} {reason}"
