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
from heapq import heappop, heappush
from uuid import UUID

from msgspec.structs import replace

from services.policy.desk import AccountKey
from services.policy.evolve import BLOCKED, Effect, evolve_allowed, evolve_ended, failed, hold_after
from services.policy.judge import Allow, Block, Verdict, Wait, judge_task
from services.policy.state import Account, Book, Circumstances, Hold, Owner
from shared.events.decisions import BlockReason
from shared.events.prices import Prices
from shared.price_list import charge
from skeldir.replay.live import Live, Waiting, Was
from skeldir.replay.members import Allowed, Blocked
from skeldir.replay.recording import Decision, End, Ending, Step
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
        self._reprices = scenario.reprices
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
        if isinstance(step.said, Allowed):
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
        verdict = self._ask(step, at_ms)
        if isinstance(verdict, Wait):
            return False
        kind = Kind(step.owner.tenant_id, _as_it_was(step.said), _as_it_is(verdict))
        self.tally.of(kind).decisions += 1
        was = self._was.get(step.decision_id)
        if was is not None:
            was.kind = kind
        if isinstance(verdict, Allow):
            self._keep(step.owner, verdict.book)
            cache_only, from_cache = verdict.cache_only is not None, was is not None and was.cache_only
            live = Live(verdict.hold, kind, cache_only, from_cache, verdict.price.prices, estimated=was is None)
            self._live[step.decision_id] = live
            if was is None:
                self._assume(step.decision_id, _as_reserved(live.hold), at_ms + self._usual_ms())
        return True

    def _as_recorded(self, step: Decision) -> None:
        """Take a decision from before the period as it is. What it took of quotas, and which breaker it probed, the
        deciders say, where they agree."""
        said = step.said
        if isinstance(said, Blocked):
            return
        made, book, owner = said.reservation, self._book(step.owner), step.owner
        verdict = self._ask(step, step.at_ms) if said.probe or said.quotas else None
        if isinstance(verdict, Allow) and verdict.hold.amount == made.amount:
            hold, book = verdict.hold, verdict.book
        else:
            probe = book.user.breaker.opened_at_ms if said.probe else None
            hold = Hold(
                step.decision_id, owner.tenant_id, owner.user_id, made.amount, made.hour, made.month, probe_of_ms=probe
            )
            book = evolve_allowed(book, hold)
        self._keep(step.owner, book)
        prices = Prices.model_validate(said.prices) if self._reprices and said.prices is not None else None
        self._live[step.decision_id] = Live(hold, None, said.cache_only, said.cache_only, prices)

    def _ending(self, step: Ending) -> None:
        was = self._was.get(step.decision_id)
        if was is None:
            self.tally.unjudged += 1
            return
        end = step.end
        if not was.held and end.effect.how == "settled":
            self._took_ms, self._ended = self._took_ms + step.at_ms - was.began_ms, self._ended + 1
        if waiting := self._waiting_for(step):
            waiting.ended = step
            return
        self._count_recorded(was, step)
        if was.kind is not None and end.blocked is not None:
            self.tally.outside[end.blocked] += 1
        if step.decision_id in self._live:
            self._end(step.decision_id, end, step.at_ms)
        elif end.expired:
            self._void[step.cause_id] = was

    def _waiting_for(self, step: Ending) -> Waiting | None:
        """The task, if it still waits here. Where its allow expired, it waits as the one that was made instead."""
        queue = self._waiting.get(step.owner)
        if queue is None:
            return None
        found = next((one for one in queue if one.step.decision_id == step.decision_id), None)
        if found is not None and step.end.expired:
            queue.remove(found)
            if not queue:
                del self._waiting[step.owner]
            del self._was[step.decision_id]
        return found

    def _count_recorded(self, was: Was, step: Ending) -> None:
        how, cost = step.end.effect.how, step.end.effect.cost
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
        effect = self._as_it_would_be(live, end)
        how, cost = effect.how, effect.cost
        if hold.state == "held" and (end.expired or how == "held"):
            return
        owner = Owner(hold.tenant_id, hold.user_id)
        self._keep(owner, evolve_ended(self._book(owner), hold, effect, self._now(at_ms)))
        sums = self.tally.of(live.kind) if live.kind is not None else Sums()
        sums.replayed_held += (hold.amount if how == "held" else 0) - (hold.amount if hold.state == "held" else 0)
        if live.estimated:
            sums.estimated += cost
        else:
            sums.replayed += cost
        left = hold_after(hold, effect, None)
        if left is None:
            del self._live[decision_id]
        else:
            live.hold = left
        self._reconsider(owner, at_ms)

    def _as_it_would_be(self, live: Live, end: End) -> Effect:
        """What the recorded end means to this reservation."""
        effect = end.effect
        if live.cache_only:
            if end.called:
                return BLOCKED  # there is nothing in the cache
        elif live.was_cache_only and end.blocked in _BREAKERS:
            live.estimated = True
            return _as_reserved(live.hold).effect
        if self._reprices and effect.how == "settled" and live.prices is not None and end.tokens is not None:
            cost = charge(live.prices, end.tokens)
            if cost is not None:
                return replace(effect, cost=cost, use=replace(effect.use, cost=cost))
        return effect

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

    def _ask(self, step: Decision, at_ms: int) -> Verdict:
        now = self._now(at_ms, step.position)
        return judge_task(self._book(step.owner), step.task, step.owner, step.decision_id, now)

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


def _as_it_was(said: Allowed | Blocked) -> str:
    if isinstance(said, Blocked):
        return said.reason
    return CACHE_ONLY if said.cache_only else ALLOWED


def _as_it_is(verdict: Allow | Block) -> str:
    if isinstance(verdict, Block):
        return verdict.refusal.reason
    return ALLOWED if verdict.cache_only is None else CACHE_ONLY


def _as_reserved(hold: Hold) -> End:
    """The assumed end of a call that was never made: all that was reserved is spent, and the breaker learns nothing."""
    return End(failed("certain", called=True, cost=hold.amount, tokens=0, counts=False), called=True)
