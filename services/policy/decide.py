"""decide: which events follow from a task or an outcome. Pure: time, limits and orders come in as values."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from services.policy import budget, meters
from services.policy.evolve import End, effect_of, evolve_ended, hold_after
from services.policy.judge import Allow, Block, Wait, judge_task
from services.policy.rules import Refusal, Request
from services.policy.state import Book, Breaker, Circumstances, Hold, Owner
from services.policy.thresholds import crossed
from shared.events.decisions import (
    BlockReason,
    BreakerChanged,
    Reservation,
    ReservationEnded,
    ShutoffTripped,
    TaskAllowed,
    TaskBlocked,
)
from shared.events.envelope import Payload
from shared.events.outcomes import TaskFailed
from shared.events.tasks import Task, ref_of

__all__ = ["Decided", "Owner", "Wait", "block_task", "decide_end", "decide_task"]


class Decided(Struct, frozen=True):
    """The events of a decision, the book after them, and the new reservation where the task was allowed."""

    events: tuple[Payload, ...]
    book: Book
    hold: Hold | None = None


def decide_task(book: Book, task: Task, owner: Owner, decision_id: UUID, now: Circumstances) -> Decided | Wait:
    """Allow, block, or hold back one task. An allow is `decision_id`, and so is its reservation."""
    verdict = judge_task(book, task, owner, decision_id, now)
    if isinstance(verdict, Wait):
        return verdict
    moved = () if verdict.moved is None else (verdict.moved,)
    if isinstance(verdict, Block):
        return Decided((*moved, _blocked(book, verdict, now)), book)
    after = verdict.book
    events = (*moved, _allowed(verdict, now), *_breaker_events(book.user.breaker, after, None))
    return Decided(events, after, verdict.hold)


def block_task(book: Book, task: Task, owner: Owner, reason: BlockReason, problem: str, now: Circumstances) -> Decided:
    """Refuse a task for a reason that lies outside the rules (the partition holds back too many)."""
    request = Request(task=task, tenant_id=owner.tenant_id, user_id=owner.user_id, hour="", month="")
    return Decided((_blocked(book, Block(request, "breaker", Refusal(reason, {"problem": problem})), now),), book)


def decide_end(book: Book, hold: Hold, end: End, now: Circumstances) -> Decided:
    """Settle, release or hold the reservation of an ended task, and let the breaker learn from it."""
    effect, task = effect_of(end), ref_of(end.task)
    after = evolve_ended(book, hold, effect, now)
    events: list[Payload] = [
        ReservationEnded(
            task=task,
            reservation_id=hold.reservation_id,
            how=effect.how,
            reserved=hold.amount,
            settled=hold.amount if effect.how == "held" else effect.cost,
            overrun=max(0, effect.cost - hold.amount),
            balances=budget.balances(after, hold, now),
            quotas=meters.readings(after.tenant, hold.takes),
        )
    ]
    events += _breaker_events(book.user.breaker, after, end)
    events += _shutoff_events(book, after, hold, now)
    events += crossed(book, after, hold, now)
    return Decided(tuple(events), after, hold_after(hold, effect, task))


def _blocked(book: Book, block: Block, now: Circumstances) -> TaskBlocked:
    task = block.request.task
    return TaskBlocked(
        task=ref_of(task),
        reason=block.refusal.reason,
        rule=block.rule,
        explanation=block.refusal.explanation,
        breaker_state=book.user.breaker.state,
        max_cost=task.max_cost,
        cache_watermark=task.cache_watermark,
        control_position=now.control.position,
    )


def _allowed(allow: Allow, now: Circumstances) -> TaskAllowed:
    request, price, hold, after = allow.request, allow.price, allow.hold, allow.book
    return TaskAllowed(
        task=request.task,
        reservation=Reservation(
            reservation_id=hold.reservation_id, amount=hold.amount, hour=hold.hour, month=hold.month
        ),
        balances=budget.balances(after, hold, now),
        quotas=[
            one.balance(after.tenant.meters[one.quota.quota_id][one.start], after.tenant.version)
            for one in request.wanted
            if one.fits
        ],
        shadowed=[one.balance(one.meter, after.tenant.version) for one in request.wanted if not one.fits],
        expires_at_ms=now.now_ms + now.config.decision_ttl_ms,
        timeout_ms=min(now.config.timeout_ms, request.bounds.timeout_ms or now.config.timeout_ms),
        max_output_tokens=price.max_output_tokens,
        prices=price.prices,
        alternatives=[one.alternative for one in allow.others],
        passed_over=allow.passed_over,
        cache_only=allow.cache_only is not None,
        cache_only_reason=allow.cache_only,
        probe=allow.probe,
        breaker_state=after.user.breaker.state,
        control_position=now.control.position,
    )


def _breaker_events(before: Breaker, after: Book, end: End | None) -> list[Payload]:
    """An event where the breaker's state or its count of failures changed."""
    now = after.user.breaker
    if (before.state, before.failures, before.opened_at_ms) == (now.state, now.failures, now.opened_at_ms):
        return []
    changed = BreakerChanged(
        breaker_key="provider",
        state=now.state,
        previous=before.state,
        failure_count=now.failures,
        opened_at_ms=now.opened_at_ms,
        last_trip_at_ms=now.last_trip_at_ms,
        reason=_breaker_reason(end),
        version=after.user.version,
    )
    return [changed]


def _breaker_reason(end: End | None) -> str:
    if isinstance(end, TaskFailed):
        return end.reason
    return "open time over" if end is None else "success"


def _shutoff_events(before: Book, after: Book, hold: Hold, now: Circumstances) -> list[Payload]:
    """An event when this settlement spent the user's hourly threshold."""
    cap = budget.hourly_cap(now, hold.tenant_id, hold.user_id)
    bucket_before, bucket = before.user.hours.get(hold.hour), after.user.hours[hold.hour]
    if not cap or bucket.spent < cap or (bucket_before is not None and bucket_before.spent >= cap):
        return []
    return [
        ShutoffTripped(
            hour=hold.hour,
            threshold=cap,
            spent=bucket.spent,
            until_ms=budget.end_of_hour_ms(hold.hour),
            version=after.user.version,
        )
    ]
