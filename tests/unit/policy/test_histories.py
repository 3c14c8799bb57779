"""Any history of tasks, outcomes and orders: the caps hold, nothing leaks, nothing is decided twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.policy.state import Account, Bucket
from shared.events.decisions import BreakerState
from tests.unit.policy.world import ALICE, BOB, CENT, CONFIG, START_MS, TENANT, TaskAllowed, TaskBlocked, World

OWNERS = st.sampled_from([ALICE, BOB])
CENTS = st.integers(1, 5)


class Histories(RuleBasedStateMachine):
    """A partition under arbitrary traffic. Providers never charge more than was reserved here: overruns have their own
    test, and would hide an overshoot."""

    @initialize(threshold=st.integers(1, 4), monthly=st.integers(5, 40), hourly=st.integers(3, 20))
    def start(self, threshold: int, monthly: int, hourly: int) -> None:
        config = replace(
            CONFIG, failure_threshold=threshold, monthly_cap=monthly * CENT, hourly_threshold=hourly * CENT
        )
        self.world = World(config=config)
        self.tasks: list[Any] = []
        self.tenant_cap: int | None = None

    def live(self) -> list[TaskAllowed]:
        """Allowed tasks whose reservation has not ended."""
        holds = self.world.desk.holds
        return [one.data for one in self.world.log if isinstance(one.data, TaskAllowed) and one.id in holds]

    def held(self) -> list[TaskAllowed]:
        """Those of which nobody knows whether money went."""
        holds = self.world.desk.holds
        return [one for one in self.live() if holds[one.reservation.reservation_id].state == "held"]

    @rule(owner=OWNERS, cents=CENTS, burst=st.integers(1, 6), cached=st.booleans())
    def submit(self, owner: Any, cents: int, burst: int, cached: bool) -> None:
        key = "k" if cached else None
        tasks = [self.world.task(owner, max_cost=cents * CENT, cache_key=key) for _ in range(burst)]
        self.tasks += [(owner, task) for task in tasks]
        self.world.deliver(*tasks)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def deliver_again(self, data: Any) -> None:
        before = len(self.world.log)
        self.world.deliver(data.draw(st.sampled_from(self.tasks))[1])
        assert len(self.world.log) == before

    @precondition(lambda self: self.live())
    @rule(data=st.data(), how=st.sampled_from(["success", "cached", "failure", "uncertain", "mistake", "expired"]))
    def end(self, data: Any, how: str) -> None:
        allowed = data.draw(st.sampled_from(self.live()))
        cost = data.draw(st.integers(0, allowed.reservation.amount))
        world = self.world
        if how == "success":
            world.succeed(allowed, cost)
        elif how == "cached":
            world.succeed(allowed, cached=True)
        elif how == "failure":
            world.fail(allowed)
        elif how == "mistake":
            world.fail(allowed, counts=False)
        elif how == "expired":
            world.expire(allowed)
        elif allowed not in self.held():
            world.fail(allowed, "uncertain")

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def resolve(self, data: Any) -> None:
        allowed = data.draw(st.sampled_from(self.held()))
        self.world.resolve(allowed, data.draw(st.integers(0, allowed.reservation.amount)))

    @rule(minutes=st.sampled_from([1, 5, 30, 61, -10]))
    def time_passes(self, minutes: int) -> None:
        self.world.now_ms = max(START_MS, self.world.now_ms + minutes * 60_000)

    @rule(engaged=st.booleans())
    def switch(self, engaged: bool) -> None:
        event = "kill_switch.engaged" if engaged else "kill_switch.released"
        self.world.order(type=event, reason="drill", actor="ann")

    @precondition(lambda self: self.tenant_cap is None)
    @rule(cents=st.integers(60, 100))
    def limit_the_tenant(self, cents: int) -> None:
        """Above what the two users can have spent by their own caps until now."""
        self.tenant_cap = cents * CENT * 10
        scope = {"tenant_id": str(TENANT)}
        self.world.order(type="limits.set", scope=scope, monthly_cents=cents * 10, hourly_cents=cents * 10, actor="a")

    def caps(self, owner: Any) -> tuple[int | None, int | None]:
        if self.tenant_cap is not None:
            return (self.tenant_cap, self.tenant_cap) if owner is None else (None, None)
        config = self.world.config
        return (None, None) if owner is None else (config.hourly_threshold, config.monthly_cap)

    @invariant()
    def caps_hold(self) -> None:
        for owner in (ALICE, BOB, None):
            account = self.account(owner)
            for buckets, cap in zip((account.hours, account.months), self.caps(owner), strict=True):
                for bucket in buckets.values():
                    assert cap is None or bucket.committed <= cap

    @invariant()
    def what_is_reserved_is_what_is_held(self) -> None:
        for owner in (ALICE, BOB, None):
            account = self.account(owner)
            holds = [
                hold
                for hold in self.world.desk.holds.values()
                if owner is None or (hold.tenant_id, hold.user_id) == (owner.tenant_id, owner.user_id)
            ]
            for buckets, name in ((account.hours, "hour"), (account.months, "month")):
                reserved = {window: bucket.reserved for window, bucket in buckets.items() if bucket.reserved}
                wanted: Counter[str] = Counter()
                for hold in holds:
                    wanted[getattr(hold, name)] += hold.amount
                assert reserved == {window: amount for window, amount in wanted.items() if amount}
            assert account.in_flight == sum(hold.state == "live" for hold in holds)

    @invariant()
    def whoever_waits_waits_for_something(self) -> None:
        for owner in self.world.desk.parked:
            breaker = self.account(owner).breaker
            assert breaker.state is BreakerState.CLOSED and self.account(owner).in_flight > 0

    @invariant()
    def nobody_is_decided_twice(self) -> None:
        verdicts: Counter[Any] = Counter()
        for event in self.world.log:
            if isinstance(event.data, TaskAllowed | TaskBlocked):
                verdicts[event.causationid] += 1
        assert all(count == 1 for count in verdicts.values())

    def account(self, owner: Any) -> Account:
        key = (TENANT, None) if owner is None else (owner.tenant_id, owner.user_id)
        return self.world.desk.accounts.get(key, Account(hours={"": Bucket()}))


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
