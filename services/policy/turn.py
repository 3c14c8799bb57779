"""One turn of a partition's policy: a batch of inputs in, everything that must be committed together out. No I/O.

A turn works on a `Desk`, the partition's state in memory. If its commit fails the desk is thrown away and loaded anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import assert_never
from uuid import UUID

import structlog

from services.policy.decide import Decided, Owner, Wait, block_task, decide_end, decide_task
from services.policy.desk import Changes, Desk
from services.policy.evolve import End, effect_of
from services.policy.inputs import Input, Unreadable, owner_of
from services.policy.rules.idempotency import Standing, TaskRecord, standing
from services.policy.state import Book, Circumstances, Hold
from shared.control_acts import Act, LetterReturned, Reconciliation
from shared.events.control import control_event_id
from shared.events.decisions import BlockReason, TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope, derived_id, follow, new
from shared.events.outcomes import AttemptResolved, DecisionExpired, TaskFailed, TaskSucceeded, Usage
from shared.events.results import result_of
from shared.events.tasks import Task, TaskRef, TaskSubmitted
from shared.logs import about

SOURCE = "/skeldir/policy"
MAX_ASIDE = 10_000

log = structlog.get_logger(__name__)


class Turn:
    """Processes inputs one after another; `changes` is what came of it."""

    def __init__(self, desk: Desk, now: Circumstances, max_parked: int) -> None:
        self._desk = desk
        self._now = now
        self._max_parked = max_parked
        self._ordinals: Counter[tuple[UUID, str]] = Counter()
        self.changes = Changes()

    def outcomes(self, inputs: Iterable[Input | Unreadable]) -> None:
        """Settle what ended, then let go on what waited for it."""
        freed: dict[Owner, None] = {}
        for one in self._readable(inputs):
            end = one.event.data
            if not isinstance(end, TaskSucceeded | TaskFailed | TaskBlocked | AttemptResolved | DecisionExpired):
                continue
            owner = owner_of(one.event)
            try:
                if self._end(one, owner, end):
                    freed[owner] = None
            except Exception as error:  # a poison entry stops nobody; its reservation stays, on the safe side
                self._poison(one, error)
                self._set_aside(one)
        self.reconsider(freed)

    def act(self, acts: Iterable[Act]) -> None:
        """Carry operators' orders out. What they are about may be gone, or never have been: that changes nothing."""
        for act in acts:
            try:
                self._carry_out(act)
            except Exception as error:  # an order that cannot be carried out stops nobody: what it is about stays held
                log.error("order not carried out", position=act.position, exc_info=error)

    def tasks(self, inputs: Iterable[Input | Unreadable]) -> None:
        """Decide each task that is new, behind those of the same user that already wait."""
        for one in self._readable(inputs):
            submitted = one.event.data
            if not isinstance(submitted, TaskSubmitted):
                continue
            match standing(self._desk.records.get(submitted.task.task_id, TaskRecord()), submitted.task):
                case Standing.FRESH:
                    self._admit(one, submitted.task)
                case Standing.CONFLICT:
                    self.changes.dead.append(
                        (one, "idempotency_conflict: the request id belongs to another body or user")
                    )
                case Standing.DECIDED:
                    pass

    def reconsider(self, owners: Iterable[Owner]) -> None:
        """Decide what waits of these users, as far as it now may go on."""
        for owner in owners:
            while owner in self._desk.parked:
                first = self._desk.parked[owner][0]
                if not self._decide_or_block(first, _task_of(first), owner):
                    break
                self._desk.unpark(owner)
                if first.key in self.changes.parked:
                    del self.changes.parked[first.key]
                else:
                    self.changes.unparked.append(first.key)

    def _carry_out(self, act: Act) -> None:
        match act:
            case Reconciliation():
                self._reconcile(act)
            case LetterReturned():
                self._return(act)
            case _:
                assert_never(act)

    def _reconcile(self, found: Reconciliation) -> None:
        """End the reservation of an uncertain attempt that an operator has looked up."""
        hold = self._desk.holds.get(found.decision_id)
        if hold is None or hold.state != "held" or hold.task is None or hold.tenant_id != found.tenant_id:
            return
        owner = Owner(hold.tenant_id, hold.user_id)
        resolved = reconciled(found, hold.task, hold.user_id, self._now.now_ms)
        assert isinstance(resolved.data, AttemptResolved), "made so"
        book = self._desk.book(owner)
        decided = decide_end(book, hold, resolved.data, self._now)
        self.changes.events.append(resolved)
        self._apply(resolved, owner, book, decided)
        self._set_hold(hold.reservation_id, decided.hold)

    def _return(self, act: LetterReturned) -> None:
        """Take in again what was set aside, in its order; what still cannot be taken in is set aside again."""
        key = f"{act.entry_id}/{act.origin.rpartition(':')[2]}"
        subjects = [subject for subject, queue in self._desk.aside.items() if any(one.key == key for one in queue)]
        again = self._desk.with_letter(act)
        for subject in subjects:
            kept = self._desk.aside.pop(subject)
            self._desk.aside_count -= len(kept)
            for one in kept:
                self.changes.returned.append(one.key)
                self.changes.aside.pop(one.key, None)
        for one in again:
            (self.outcomes if one.stream == "outcomes" else self.tasks)([one])

    def _readable(self, inputs: Iterable[Input | Unreadable]) -> Iterator[Input]:
        """Those that can be taken in; the others are set aside, and so is what comes behind them for the same task."""
        for one in inputs:
            if isinstance(one, Unreadable):
                self.changes.dead.append((one, one.problem))
                self._set_aside(one)
            elif one.subject in self._desk.aside:
                self.changes.dead.append((one, "behind an entry of the same task that is set aside"))
                self._set_aside(one)
            else:
                yield one

    def _set_aside(self, one: Input | Unreadable) -> None:
        if self._desk.aside_count < MAX_ASIDE:  # else its letter is all that is left of it
            self._desk.set_aside(one)
            self.changes.aside[one.key] = one.data

    def _admit(self, one: Input, task: Task) -> None:
        owner = owner_of(one.event)
        self._desk.records[task.task_id] = TaskRecord(task.fingerprint, "decided")
        if owner in self._desk.parked or not self._decide_or_block(one, task, owner):
            self._park(one, task, owner)

    def _end(self, one: Input, owner: Owner, end: End) -> bool:
        """True when a reservation ended. A second end of the same one is a repeat, and changes nothing."""
        decision_id = end.decision_id
        hold = self._desk.holds.get(decision_id) if decision_id is not None else None
        if hold is None:
            return False
        if hold.state == "held" and (isinstance(end, DecisionExpired) or effect_of(end).how == "held"):
            return False  # the end by which it came to be held, once more
        book = self._desk.book(owner)
        decided = decide_end(book, hold, end, self._now)
        self._apply(one.event, owner, book, decided)
        self._set_hold(hold.reservation_id, decided.hold)
        if isinstance(end, DecisionExpired) and not self._decide_or_block(one, end.task, owner):
            self._park(one, end.task, owner)
        return True

    def _decide_or_block(self, one: Input, task: Task, owner: Owner) -> bool:
        """As `_decide`, whenever it is asked: a task that the rules fail on stops nobody, and still gets its end."""
        try:
            return self._decide(one, task, owner)
        except Exception as error:
            self._poison(one, error)
            self._block(one, task, owner, BlockReason.POLICY_ERROR, "the rules failed on this task")
            return True

    def _decide(self, one: Input, task: Task, owner: Owner) -> bool:
        """False when the task has to wait."""
        decision_id = derived_id(one.event.id, TaskAllowed.event_type)
        book = self._desk.book(owner)
        verdict = decide_task(book, task, owner, decision_id, self._now)
        if isinstance(verdict, Wait):
            return False
        self._apply(one.event, owner, book, verdict)
        if verdict.hold is not None:
            self._set_hold(decision_id, verdict.hold)
            self.changes.allowed[task.task_id] = (task, decision_id)
        return True

    def _park(self, one: Input, task: Task, owner: Owner) -> None:
        if self._desk.parked_count >= self._max_parked:
            problem = f"{self._max_parked} tasks of this partition wait for outcomes already"
            self._block(one, task, owner, BlockReason.IN_FLIGHT, problem)
            return
        self._desk.park(owner, one)
        self.changes.parked[one.key] = (task, one.event.to_json())

    def _block(self, one: Input, task: Task, owner: Owner, reason: BlockReason, problem: str) -> None:
        book = self._desk.book(owner)
        self._apply(one.event, owner, book, block_task(book, task, owner, reason, problem, self._now))

    def _poison(self, one: Input, error: Exception) -> None:
        log.error(
            "entry set aside", event_id=str(one.event.id), type=one.event.type, **about(one.event), exc_info=error
        )
        self.changes.dead.append((one, f"policy failed on it: {type(error).__name__}: {error}"))

    def _apply(self, cause: Envelope, owner: Owner, before: Book, decided: Decided) -> None:
        """Take the events and the book over; `before` is the book that was decided on."""
        for payload in decided.events:
            # Counted by type: an expired decision causes an end and a new decision, and each may change the breaker.
            counted = (cause.id, payload.event_type)
            ordinal = self._ordinals[counted]
            self._ordinals[counted] += 1
            event = follow(cause, payload, source=SOURCE, now_ms=self._now.now_ms, ordinal=ordinal)
            self.changes.events.append(event)
            if isinstance(payload, TaskBlocked):
                fingerprint = _task_of_event(cause).fingerprint
                self.changes.ended[payload.task.task_id] = (fingerprint, result_of(event).model_dump_json().encode())
        for key, old, after in (
            ((owner.tenant_id, owner.user_id), before.user, decided.book.user),
            ((owner.tenant_id, None), before.tenant, decided.book.tenant),
        ):
            if after is not old:
                self._desk.accounts[key] = after
                self.changes.accounts[key] = after
        if decided.book.probes is not before.probes:
            self._desk.probes = self.changes.probes = decided.book.probes

    def _set_hold(self, reservation_id: UUID, hold: Hold | None) -> None:
        self.changes.holds[reservation_id] = hold
        if hold is None:
            self._desk.holds.pop(reservation_id, None)
        else:
            self._desk.holds[reservation_id] = hold


def reconciled(found: Reconciliation, task: TaskRef, user_id: UUID, now_ms: int) -> Envelope:
    """An operator's word on an uncertain attempt, as the executor would have said it of a late result."""
    order_id = control_event_id(found.position)
    resolved = AttemptResolved(
        task=task,
        decision_id=found.decision_id,
        spend="certain" if found.cost else "none",
        usage=Usage(cost=found.cost),
        by=found.actor,
    )
    return new(
        resolved,
        event_id=derived_id(order_id, AttemptResolved.event_type),
        source=SOURCE,
        subject=str(task.task_id),
        now_ms=now_ms,
        tenantid=found.tenant_id,
        userid=user_id,
        causationid=order_id,
    )


def _task_of_event(event: Envelope) -> Task:
    if isinstance(event.data, TaskSubmitted | DecisionExpired):
        return event.data.task
    raise TypeError(f"{event.type} carries no task")


def _task_of(one: Input) -> Task:
    return _task_of_event(one.event)
