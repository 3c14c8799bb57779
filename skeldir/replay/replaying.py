"""The replay of one partition: recorded steps in, policy's deciders over accounts of its own. No I/O, no clock.

What the recording cannot know is assumed, and kept apart:
- A task that was blocked and is allowed now has no recorded cost: it counts as its reservation (`estimated`), ends when
  the partition's calls ended on average, and teaches the breaker nothing.
- A task that was allowed and is blocked now: its end is left out, and what it cost is what is saved.
- A task that has to wait now (see `policy/rules/breaker.py`) waits, and then takes as long as it took.
- An allow that is for the cache only now finds nothing there, unless the answer did come from the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from heapq import heappop, heappush
from uuid import UUID

from services.policy.decide import Decided, Owner, Wait, decide_end, decide_task
from services.policy.desk import AccountKey
from services.policy.evolve import End, evolve_allowed, settlement
from services.policy.state import Account, Book, Circumstances, Hold
from shared.events.decisions import BlockReason, BreakerState, TaskAllowed, TaskBlocked
from shared.events.outcomes import AttemptResolved, DecisionExpired, TaskFailed, TaskSucceeded, Usage
from shared.events.tasks import Task, TaskRef
from shared.price_list import charge
from skeldir.replay.live import Live, Waiting, Was
from skeldir.replay.recording import Decision, Ending, Step
from skeldir.replay.scenario import Control, Orders, Scenario
from skeldir.replay.tally import ALLOWED, CACHE_ONLY, Kind, Sums, Tally


class Replay:
    """One partition. Until `since_ms` it takes what was decided as it is; from then on the scenario decides."""

    def __init__(
        self, orders: Orders, scenario: Scenario, before: Scenario, since_ms: int = 0, tally: Tally | None = None
    ) -> None:
        """`tally`: what is counted is added to it."""
        self.tally = Tally() if tally is None else tally
        self._scenarios = ((before, Control(orders, before)), (scenario, Control(orders, scenario)))
        self._since_ms = since_ms
        self._position = "0-0"
        self._accounts: dict[AccountKey, Account] = {}
        self._probes = Book().probes
        self._was: dict[UUID, Was] = {}
        self._live: dict[UUID, Live] = {}
        self._void: dict[UUID, Was] = {}
        """Allows that expired and were not given now, by the event that says so: they are not decided again."""
        self._waiting: dict[Owner, deque[Waiting]] = {}
        self._due: list[tuple[int, int, UUID, End]] = []
        self._assumed = 0
        self._took_ms, self._ended = 0, 0

    def run(self, steps: Iterable[Step | None]) -> Tally:
        """All steps, to the end."""
        for step in steps:
            self.take(step)
        self.finish()
        return self.tally

    def take(self, step: Step | None) -> None:
        """The next step; None: one whose cause is not in the books."""
        self.tally.steps += 1
        if step is None:
            self.tally.unjudged += 1
            return
        self._end_what_is_due(step.at_ms)
        if isinstance(step, Ending):
            self._ending(step)
        else:
            self._position = step.position
            self._decision(step)

    def finish(self) -> None:
        """The recording has ended: what is assumed to end later ends now."""
        self._end_what_is_due(2**63)
        self.tally.waiting += sum(map(len, self._waiting.values()))

    def _decision(self, step: Decision) -> None:
        void = self._void.pop(step.cause_id, None)
        if isinstance(step.said, TaskAllowed):
            kind = void.kind if void is not None else None
            said = step.said
            self._was[step.decision_id] = Was(step.at_ms, said.reservation.amount, said.cache_only, kind)
        if void is not None:
            return
        if step.at_ms < self._since_ms:
            self._as_recorded(step)
        elif step.outside is not None:
            self.tally.outside[step.outside] += 1
        elif step.owner in self._waiting or not self._decide(step, step.at_ms):
            self._waiting.setdefault(step.owner, deque()).append(Waiting(step))

    def _decide(self, step: Decision, at_ms: int) -> bool:
        """False when the task has to wait."""
        said = self._ask(step, at_ms)
        if isinstance(said, Wait):
            return False
        verdict = next(one for one in said.events if isinstance(one, TaskAllowed | TaskBlocked))
        kind = Kind(step.owner.tenant_id, _label(step.said), _label(verdict))
        self.tally.of(kind).decisions += 1
        was = self._was.get(step.decision_id)
        if was is not None:
            was.kind = kind
        self._keep(step.owner, said.book)
        if said.hold is not None:
            assert isinstance(verdict, TaskAllowed), "what reserves is an allow"
            from_cache = was is not None and was.cache_only
            live = Live(said.hold, kind, verdict.cache_only, from_cache, verdict.prices, estimated=was is None)
            self._live[step.decision_id] = live
            if was is None:
                self._assume(step.decision_id, _as_reserved(step.task, live.hold), at_ms + self._usual_ms())
        return True

    def _as_recorded(self, step: Decision) -> None:
        """Take a decision from before the period as it is. What it took of quotas, and which breaker it probed, the
        deciders say, where they agree."""
        if isinstance(step.said, TaskBlocked):
            return
        made, book, owner = step.said.reservation, self._book(step.owner), step.owner
        said = self._ask(step, step.at_ms) if step.said.probe or step.said.quotas else None
        if isinstance(said, Decided) and said.hold is not None and said.hold.amount == made.amount:
            hold, book = said.hold, said.book
        else:
            probe = book.user.breaker.opened_at_ms if step.said.probe else None
            hold = Hold(
                step.decision_id, owner.tenant_id, owner.user_id, made.amount, made.hour, made.month, probe_of_ms=probe
            )
            book = evolve_allowed(book, hold)
        self._keep(step.owner, book)
        self._live[step.decision_id] = Live(hold, None, step.said.cache_only, step.said.cache_only, step.said.prices)

    def _ending(self, step: Ending) -> None:
        was = self._was.get(step.decision_id)
        if was is None:
            self.tally.unjudged += 1
            return
        how, _ = settlement(step.end)
        if not was.held and how == "settled":
            self._took_ms, self._ended = self._took_ms + step.at_ms - was.began_ms, self._ended + 1
        if waiting := self._waiting_for(step):
            waiting.ended = step
            return
        self._count_recorded(was, step)
        if was.kind is not None and isinstance(step.end, TaskBlocked):
            self.tally.outside[step.end.reason] += 1
        if step.decision_id in self._live:
            self._end(step.decision_id, step.end, step.at_ms)
        elif isinstance(step.end, DecisionExpired):
            self._void[step.cause_id] = was

    def _waiting_for(self, step: Ending) -> Waiting | None:
        """The task, if it still waits here. Where its allow expired, it waits as the one that was made instead."""
        queue = self._waiting.get(step.owner, deque())
        found = next((one for one in queue if one.step.decision_id == step.decision_id), None)
        if found is not None and isinstance(step.end, DecisionExpired):
            queue.remove(found)
            if not queue:
                del self._waiting[step.owner]
            del self._was[step.decision_id]
        return found

    def _count_recorded(self, was: Was, step: Ending) -> None:
        how, cost = settlement(step.end)
        sums = self.tally.of(was.kind) if was.kind is not None else Sums()
        if was.held and how != "held":
            sums.recorded_held -= was.amount
        elif how == "held" and not was.held:
            sums.recorded_held += was.amount
        sums.recorded += cost
        was.held = how == "held"
        if not was.held:
            del self._was[step.decision_id]

    def _end(self, decision_id: UUID, end: End, at_ms: int) -> None:
        """A reservation of the replay ends; then what waits for that goes on."""
        live = self._live[decision_id]
        hold = live.hold
        end = self._as_it_would_be(live, end)
        how, cost = settlement(end)
        if hold.state == "held" and (isinstance(end, DecisionExpired) or how == "held"):
            return
        owner = Owner(hold.tenant_id, hold.user_id)
        said = decide_end(self._book(owner), hold, end, self._now(at_ms))
        self._keep(owner, said.book)
        sums = self.tally.of(live.kind) if live.kind is not None else Sums()
        sums.replayed_held += (hold.amount if how == "held" else 0) - (hold.amount if hold.state == "held" else 0)
        if live.estimated:
            sums.estimated += cost
        else:
            sums.replayed += cost
        if said.hold is None:
            del self._live[decision_id]
        else:
            live.hold = said.hold
        self._reconsider(owner, at_ms)

    def _as_it_would_be(self, live: Live, end: End) -> End:
        """The recorded end as this reservation has it."""
        if live.cache_only:
            if isinstance(end, TaskSucceeded | TaskFailed) and end.provider_attempted:
                return _not_in_the_cache(end, end.decision_id)
        elif live.was_cache_only and isinstance(end, TaskBlocked) and end.reason in _BREAKERS:
            live.estimated = True
            return _as_reserved(end.task, live.hold)
        if self._scenarios[1][0].reprices and isinstance(end, TaskSucceeded | TaskFailed | AttemptResolved):
            usage = end.usage
            cost = charge(live.prices, usage.tokens) if live.prices is not None and usage.prices is not None else None
            if cost is not None:
                return end.model_copy(update={"usage": usage.model_copy(update={"cost": cost})})
        return end

    def _reconsider(self, owner: Owner, at_ms: int) -> None:
        while queue := self._waiting.get(owner):
            first = queue[0]
            if not self._decide(replace(first.step, position=self._position), at_ms):
                return
            queue.popleft()
            if not queue:
                del self._waiting[owner]
            if first.ended is not None:
                self._end_late(first.step, first.ended, at_ms)

    def _end_late(self, step: Decision, ended: Ending, at_ms: int) -> None:
        """The recorded end of a task that had to wait: as much later."""
        was = self._was.get(step.decision_id)
        if was is not None:
            self._count_recorded(was, ended)
        if step.decision_id in self._live:
            self._assume(step.decision_id, ended.end, at_ms + ended.at_ms - step.at_ms)

    def _assume(self, decision_id: UUID, end: End, due_ms: int) -> None:
        self._assumed += 1
        heappush(self._due, (due_ms, self._assumed, decision_id, end))

    def _end_what_is_due(self, at_ms: int) -> None:
        while self._due and self._due[0][0] <= at_ms:
            due_ms, _, decision_id, end = heappop(self._due)
            if decision_id in self._live:
                self._end(decision_id, end, due_ms)

    def _usual_ms(self) -> int:
        """From an allow to its settlement, on average so far."""
        return self._took_ms // self._ended if self._ended else 0

    def _ask(self, step: Decision, at_ms: int) -> Decided | Wait:
        now = self._now(at_ms, step.position)
        return decide_task(self._book(step.owner), step.task, step.owner, step.decision_id, now)

    def _now(self, at_ms: int, position: str | None = None) -> Circumstances:
        scenario, control = self._scenarios[at_ms >= self._since_ms]
        return Circumstances(at_ms, scenario.config, control.at(position or self._position))

    def _book(self, owner: Owner) -> Book:
        get = self._accounts.get
        return Book(get((owner.tenant_id, owner.user_id), _NEW), get((owner.tenant_id, None), _NEW), self._probes)

    def _keep(self, owner: Owner, book: Book) -> None:
        self._accounts[owner.tenant_id, owner.user_id] = book.user
        self._accounts[owner.tenant_id, None] = book.tenant
        self._probes = book.probes


_NEW = Account()
_BREAKERS = (BlockReason.BREAKER_OPEN, BlockReason.PROVIDER_BREAKER_OPEN)


def _label(said: TaskAllowed | TaskBlocked) -> str:
    if isinstance(said, TaskBlocked):
        return said.reason
    return CACHE_ONLY if said.cache_only else ALLOWED


def _as_reserved(task: Task | TaskRef, hold: Hold) -> TaskFailed:
    """The assumed end of a call that was never made: all that was reserved is spent, and the breaker learns nothing."""
    return TaskFailed(
        task=task,
        decision_id=hold.reservation_id,
        reason="assumed",
        provider_attempted=True,
        counts_for_breaker=False,
        spend="certain",
        usage=Usage(cost=hold.amount),
    )


def _not_in_the_cache(end: TaskSucceeded | TaskFailed, decision_id: UUID) -> TaskBlocked:
    return TaskBlocked(
        task=end.task,
        reason=BlockReason.BREAKER_OPEN,
        rule="executor",
        breaker_state=BreakerState.OPEN,
        decision_id=decision_id,
        control_position="0-0",
    )
