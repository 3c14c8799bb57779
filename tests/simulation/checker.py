"""What must hold after every step, and when all is quiet: from the log alone, and the provider's own account."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from services.policy import store
from services.policy.decide import Owner
from services.policy.state import Account
from shared.control_state import order_of
from shared.events.decisions import BreakerState, ReservationEnded, TaskAllowed
from shared.events.outcomes import AttemptStarted
from shared.events.registry import EVENTS
from shared.events.results import END_EVENTS
from shared.events.tasks import TaskSubmitted
from tests.simulation.log import PARTITION
from tests.simulation.world import CONFIG, OWNERS, STALENESS_MS, World

KEYS = {owner: PARTITION.account(owner.tenant_id, owner.user_id) for owner in OWNERS}


class Violated(AssertionError):
    """An invariant does not hold."""


class Checker:
    """Follows one world, step by step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._read = dict.fromkeys(("tasks", "decisions", "outcomes"), 0)
        self._calls = 0
        self._versions: dict[str, bytes] = {}
        self.allowed: dict[UUID, TaskAllowed] = {}
        self.attempts: dict[UUID, set[UUID]] = {}
        self.calls: Counter[UUID] = Counter()
        self.submitted: dict[UUID, str] = {}
        self.ends: dict[UUID, set[UUID]] = {}
        self.settled: dict[UUID, list[ReservationEnded]] = {}
        self.cache_only: dict[UUID, UUID] = {}
        self.probes: dict[str, list[int]] = {}

    def step(self) -> None:
        """Check what is new."""
        streams = self._world.log.streams
        decided = len(streams["decisions"]) > self._read["decisions"]
        for stream, read in self._read.items():
            if len(streams[stream]) > read:
                self._stream(stream)
        for call in self._world.calls[self._calls :]:
            self._call(call)
        self._calls = len(self._world.calls)
        if decided:  # accounts change with the decisions that change them, or not at all
            self._caps()

    def quiet(self) -> None:
        """Check what must hold at the end: everything accepted has ended, and nothing is held that should not be."""
        for task_id in self.submitted:
            if len(self.ends.get(task_id, ())) != 1:
                self._fail(2, f"task {task_id} has {len(self.ends.get(task_id, ()))} ends")
        holds = self._world.log.hashes.get(PARTITION.reservations, {})
        live = [hold for hold in map(store.decode_hold, holds.values()) if hold.state == "live"]
        if live:
            self._fail(4, f"{len(live)} reservations are live though nothing is in flight")
        for owner in OWNERS:
            account = self._account(owner.tenant_id, owner.user_id)
            held = [hold for hold in map(store.decode_hold, holds.values()) if hold.user_id == owner.user_id]
            reserved = sum(bucket.reserved for bucket in account.months.values())
            if reserved != sum(hold.amount for hold in held) or account.in_flight:
                self._fail(4, f"{reserved} is reserved for {owner.user_id.int}, {account.in_flight} are in flight")
        if self._world.log.pending:
            self._fail(2, "decisions are still pending")
        self._account_of_the_provider()

    def _stream(self, stream: str) -> None:
        entries = self._world.log.streams[stream]
        for entry in entries[self._read[stream] :]:
            event = EVENTS.decode(entry.data)
            match event.data:
                case TaskSubmitted(task=task):
                    if self.submitted.setdefault(task.task_id, task.fingerprint) != task.fingerprint:
                        self._fail(3, f"two bodies under {task.request_id}")
                case TaskAllowed():
                    self.allowed[event.id] = event.data
                    if event.data.cache_only and event.userid is not None:
                        self.cache_only[event.id] = event.userid
                    self._probes(event.data, round(event.time.timestamp() * 1000))
                case AttemptStarted(decision_id=decision):
                    if decision not in self.allowed:
                        self._fail(1, f"attempt without an allow before it: {decision}")
                    self.attempts.setdefault(decision, set()).add(event.data.attempt_id)
                case ReservationEnded(reservation_id=reservation):
                    before = self.settled.setdefault(reservation, [])
                    if before and before[-1].how != "held":
                        self._fail(4, f"reservation {reservation} ended twice")
                    before.append(event.data)
                    self.cache_only.pop(reservation, None)
            if event.type in END_EVENTS:
                found = self.ends.setdefault(UUID(event.subject), set())
                found.add(event.id)
                if len(found) > 1:
                    self._fail(2, f"task {event.subject} ended twice")
        self._read[stream] = len(entries)

    def _call(self, call: Any) -> None:
        allowed = self.allowed.get(call.decision_id)
        if allowed is None:
            self._fail(1, "a call without a recorded allow")
            return
        if call.at_ms >= allowed.expires_at_ms:
            self._fail(12, "a call on an expired decision")
        self.calls[call.decision_id] += 1
        attempts = len(self.attempts.get(call.decision_id, ()))
        if self.calls[call.decision_id] > attempts:
            self._fail(3, f"{self.calls[call.decision_id]} calls, {attempts} recorded attempts of one decision")
        for since, until, tenant in self._world.engaged:
            inside = since + STALENESS_MS < call.at_ms and (until is None or call.at_ms < until)
            if inside and tenant in (None, call.owner.tenant_id):
                self._fail(5, f"a call {call.at_ms - since} ms after the kill switch")
        self._breaker(call, allowed)

    def _breaker(self, call: Any, allowed: TaskAllowed) -> None:
        """Past the staleness bound no call goes out through an open breaker, through a half-open one only probes."""
        if not self._world.breaker:
            return
        entry_id, since, state = self._world.breaker[-1]
        if state is BreakerState.CLOSED or call.at_ms <= since + STALENESS_MS:
            return
        if state is BreakerState.OPEN:
            self._fail(5, f"a call {call.at_ms - since} ms after its model's breaker opened")
        if order_of(allowed.control_position) < order_of(entry_id):
            self._fail(5, "a call through a half-open breaker that was allowed before, and is no probe")

    def _probes(self, allowed: TaskAllowed, at_ms: int) -> None:
        """While half-open, no more than its probes are allowed in an open time."""
        seen = [one for one in self._world.breaker if order_of(one[0]) <= order_of(allowed.control_position)]
        if not seen or seen[-1][2] is not BreakerState.HALF_OPEN or allowed.cache_only:
            return
        config = CONFIG.provider_breakers
        times = self.probes.setdefault(seen[-1][0], [])
        times.append(at_ms)
        if len(times) > config.probes * ((times[-1] - times[0]) // config.open_ms + 1):
            self._fail(12, f"{len(times)} probes in {times[-1] - times[0]} ms")

    def _caps(self) -> None:
        for owner, key in KEYS.items():
            stored = self._world.log.strings.get(key)
            if stored is None or self._versions.get(key) == stored:
                continue
            before = store.decode_account(self._versions.get(key))
            self._versions[key] = stored
            account = store.decode_account(stored)
            self._burst(before, account, owner)
            caps = ((account.hours, CONFIG.hourly_threshold), (account.months, CONFIG.monthly_cap))
            for buckets, cap in caps:
                for window, bucket in buckets.items():
                    if bucket.committed > cap:
                        self._fail(4, f"{bucket.committed} of {cap} in {window} for {owner.user_id.int}")

    def _burst(self, before: Account, account: Account, owner: Owner) -> None:
        """While a breaker is closed, only as many calls are out as successes have proven (at first: the threshold)."""
        if before.breaker.state is not BreakerState.CLOSED or account.breaker.state is not BreakerState.CLOSED:
            return
        proven = max(CONFIG.failure_threshold, account.breaker.proven)
        out = account.in_flight - sum(user == owner.user_id for user in self.cache_only.values())
        if out > max(before.in_flight, proven):
            self._fail(12, f"{out} calls are out, {proven} are proven")

    def _account_of_the_provider(self) -> None:
        """What the provider charged is spent, or held as perhaps spent: never forgotten."""
        for call in self._world.calls:
            ended = self.settled.get(call.decision_id, [])
            if not ended:
                self._fail(6, f"a call whose reservation never ended: {call.decision_id}")
            elif ended[-1].how == "released" and call.cost:
                self._fail(6, f"{call.cost} were charged, and the reservation was released")
            elif ended[-1].how == "settled" and self.calls[call.decision_id] == 1 and ended[-1].settled < call.cost:
                self._fail(6, f"{call.cost} were charged, {ended[-1].settled} settled")

    def _account(self, tenant_id: UUID, user_id: UUID) -> Account:
        return store.decode_account(self._world.log.strings.get(PARTITION.account(tenant_id, user_id)))

    def _fail(self, invariant: int, what: str) -> None:
        raise Violated(f"invariant {invariant}: {what}")
