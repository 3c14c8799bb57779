"""decide: what follows from a task or an outcome. Pure: the time, the limits and the orders come in as values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from services.policy import budget, meters
from services.policy.evolve import End, evolve_allowed, evolve_ended, evolve_probing, settlement
from services.policy.rules import (
    Refusal,
    Request,
    breaker,
    downgrade,
    fallback,
    guard,
    hourly_limit,
    in_flight,
    kill_switch,
    manual_shutoff,
    monthly_cap,
    provider_breaker,
    quota,
    tool_calls,
)
from services.policy.state import Book, Breaker, Circumstances, Hold
from services.policy.thresholds import crossed
from shared.bounds import bounds_of
from shared.events.decisions import (
    BlockReason,
    BreakerChanged,
    BreakerState,
    PassedOver,
    Reservation,
    ReservationEnded,
    ShutoffTripped,
    TaskAllowed,
    TaskBlocked,
)
from shared.events.envelope import Payload
from shared.events.outcomes import TaskFailed
from shared.events.tasks import Task, ref_of
from shared.pricing import Quote, Refused, Terms, quote

Rule = Callable[[Book, Request, Circumstances], Refusal | None]

# Asked in this order; the first refusal counts. Stops come first; money comes last, when its worst case is known.
STOPS: tuple[tuple[str, Rule], ...] = (
    ("kill_switch", kill_switch.check),
    ("manual_shutoff", manual_shutoff.check),
    ("hourly_limit", hourly_limit.check_shutoff),
    ("tool_calls", tool_calls.check),
    ("guard", guard.check),
)
LIMITS: tuple[tuple[str, Rule], ...] = (
    ("in_flight", in_flight.check),
    ("monthly_cap", monthly_cap.check),
    ("hourly_limit", hourly_limit.check),
    ("quota", quota.check),
)


class Decided(Struct, frozen=True):
    """The events of a decision, the book after them, and the new reservation where the task was allowed."""

    events: tuple[Payload, ...]
    book: Book
    hold: Hold | None = None


class Wait(Struct, frozen=True):
    """The task is held back until an outcome of this user is known (see `rules/breaker.py`)."""


class Owner(Struct, frozen=True):
    """Whose task it is."""

    tenant_id: UUID
    user_id: UUID


def decide_task(book: Book, task: Task, owner: Owner, decision_id: UUID, now: Circumstances) -> Decided | Wait:
    """Allow, block, or hold back one task. An allow is `decision_id`, and so is its reservation."""
    task, moved = downgrade.apply(book, task, owner.tenant_id, owner.user_id, now)
    decided = _decide(book, task, owner, decision_id, now)
    if moved is None or isinstance(decided, Wait):
        return decided
    return replace(decided, events=(moved, *decided.events))


def _decide(book: Book, task: Task, owner: Owner, decision_id: UUID, now: Circumstances) -> Decided | Wait:
    request = Request(
        task=task,
        tenant_id=owner.tenant_id,
        user_id=owner.user_id,
        hour=budget.current_hour(book.tenant, now.now_ms),
        month=budget.current_month(book.tenant, now.now_ms),
        bounds=bounds_of(now.control.bounds, owner.tenant_id, task.task_type),
    )
    for name, rule in STOPS:
        if refusal := rule(book, request, now):
            return _blocked(book, request, name, refusal, now)
    passage = breaker.passage(book.user, now)
    if passage is breaker.Passage.REFUSE:
        if task.cache_key is None:
            return _blocked(book, request, "breaker", _breaker_refusal(book), now)
        return _from_cache(book, request, decision_id, now, BlockReason.BREAKER_OPEN)
    terms = terms_of(request, now)
    others: Sequence[fallback.Option] = fallback.options(request, terms, now)
    across = provider_breaker.passage(book.probes, task, now)
    unavailable = BlockReason.PROVIDER_BREAKER_OPEN if across is breaker.Passage.REFUSE else None
    if unavailable is None:
        try:
            choice = fallback.Option(task, quote(task, terms))
        except Refused as refused:
            if not others or refused.reason not in fallback.UNAVAILABLE:
                return _blocked(book, request, "price_bound", Refusal(refused.reason, {"problem": str(refused)}), now)
            unavailable = refused.reason
    elif not others:
        refusal = provider_breaker.refusal(task, now)
        if task.cache_key is None:
            return _blocked(book, request, "provider_breaker", refusal, now)
        return _from_cache(book, request, decision_id, now, BlockReason.PROVIDER_BREAKER_OPEN)
    if unavailable is not None:
        choice, *others = others
        across, request = breaker.Passage.PASS, replace(request, task=choice.task)
    others = fallback.beside(choice.task, others, request, now)
    request, refused_by = _within_limits(book, request, owner, choice, others, now)
    if refused_by is not None and others:
        # The choice alone may fit where the dearest of its alternatives does not.
        others = ()
        request, refused_by = _within_limits(book, request, owner, choice, others, now)
    if refused_by is not None:
        return _blocked(book, request, *refused_by, now)
    if passage is breaker.Passage.WAIT:
        return Wait()
    probe, of_model = passage is breaker.Passage.PROBE, across is breaker.Passage.PROBE
    return _allowed(
        book,
        request,
        replace(choice.price, amount=request.amount),
        decision_id,
        now,
        probe=probe,
        probe_of_model=of_model,
        others=others,
        passed_over=None if unavailable is None else fallback.passed_over(task, unavailable),
    )


def _within_limits(
    book: Book,
    request: Request,
    owner: Owner,
    choice: fallback.Option,
    others: Sequence[fallback.Option],
    now: Circumstances,
) -> tuple[Request, tuple[str, Refusal] | None]:
    """The request with what it would reserve, and the first limit that refuses it."""
    most = fallback.covering(choice.price, others)
    wanted = _wanted(book, choice.task, owner, most, now)
    request = replace(request, amount=most.amount, wanted=wanted)
    for name, rule in LIMITS:
        if refusal := rule(book, request, now):
            return request, (name, refusal)
    return request, None


def _wanted(book: Book, task: Task, owner: Owner, price: Quote, now: Circumstances) -> tuple[meters.Wanted, ...]:
    quotas = now.control.quotas.get(owner.tenant_id)
    return () if quotas is None else meters.wanted(book.tenant, quotas, owner.user_id, task, price, now.now_ms)


def terms_of(request: Request, now: Circumstances) -> Terms:
    """What the worst case of a task depends on, now."""
    return Terms(
        default_max_output_tokens=now.config.default_max_output_tokens,
        unpriced_worst_case=now.config.unpriced_worst_case,
        providers=now.config.providers,
        price_lists=now.config.price_lists,
        overrides=now.control.prices,
        tenant_id=request.tenant_id,
        now_ms=now.now_ms,
        max_cost=request.bounds.max_cost,
    )


def block_task(book: Book, task: Task, owner: Owner, reason: BlockReason, problem: str, now: Circumstances) -> Decided:
    """Refuse a task for a reason that lies outside the rules (the partition holds back too many)."""
    request = Request(task=task, tenant_id=owner.tenant_id, user_id=owner.user_id, hour="", month="")
    return _blocked(book, request, "breaker", Refusal(reason, {"problem": problem}), now)


def decide_end(book: Book, hold: Hold, end: End, now: Circumstances) -> Decided:
    """Settle, release or hold the reservation of an ended task, and let the breaker learn from it."""
    how, cost = settlement(end)
    after = evolve_ended(book, hold, end, now)
    events: list[Payload] = [
        ReservationEnded(
            task=ref_of(end.task),
            reservation_id=hold.reservation_id,
            how=how,
            reserved=hold.amount,
            settled=hold.amount if how == "held" else cost,
            overrun=max(0, cost - hold.amount),
            balances=budget.balances(after, hold, now),
            quotas=meters.readings(after.tenant, hold.takes),
        )
    ]
    events += _breaker_events(book.user.breaker, after, end)
    events += _shutoff_events(book, after, hold, now)
    events += crossed(book, after, hold, now)
    if how != "held":
        return Decided(tuple(events), after)
    return Decided(
        tuple(events), after, replace(hold, state="held", task=ref_of(end.task), takes=meters.still_held(hold.takes))
    )


def _blocked(book: Book, request: Request, rule: str, refusal: Refusal, now: Circumstances) -> Decided:
    blocked = TaskBlocked(
        task=ref_of(request.task),
        reason=refusal.reason,
        rule=rule,
        explanation=refusal.explanation,
        breaker_state=book.user.breaker.state,
        max_cost=request.task.max_cost,
        cache_watermark=request.task.cache_watermark,
        control_position=now.control.position,
    )
    return Decided((blocked,), book)


def _from_cache(book: Book, request: Request, decision_id: UUID, now: Circumstances, reason: BlockReason) -> Decided:
    """No call, but an answer from the cache if there is one."""
    return _allowed(book, request, Quote(0, None), decision_id, now, cache_only=reason)


def _allowed(
    book: Book,
    request: Request,
    price: Quote,
    decision_id: UUID,
    now: Circumstances,
    *,
    cache_only: BlockReason | None = None,
    probe: bool = False,
    probe_of_model: bool = False,
    others: Sequence[fallback.Option] = (),
    passed_over: PassedOver | None = None,
) -> Decided:
    before = book.user.breaker
    hold = Hold(
        reservation_id=decision_id,
        tenant_id=request.tenant_id,
        user_id=request.user_id,
        amount=price.amount,
        hour=request.hour,
        month=request.month,
        probe_of_ms=before.opened_at_ms if probe else None,
        takes=tuple(one.take for one in request.wanted if one.fits),
    )
    after = evolve_allowed(book, hold)
    if probe_of_model:
        after = evolve_probing(after, request.task, now)
    allowed = TaskAllowed(
        task=request.task,
        reservation=Reservation(
            reservation_id=decision_id, amount=price.amount, hour=request.hour, month=request.month
        ),
        balances=budget.balances(after, hold, now),
        quotas=[one.balance(after.tenant.meters[one.quota.quota_id][one.start]) for one in request.wanted if one.fits],
        shadowed=[one.balance(one.meter) for one in request.wanted if not one.fits],
        expires_at_ms=now.now_ms + now.config.decision_ttl_ms,
        timeout_ms=min(now.config.timeout_ms, request.bounds.timeout_ms or now.config.timeout_ms),
        max_output_tokens=price.max_output_tokens,
        prices=price.prices,
        alternatives=[one.alternative for one in others],
        passed_over=passed_over,
        cache_only=cache_only is not None,
        cache_only_reason=cache_only,
        probe=probe or probe_of_model,
        breaker_state=after.user.breaker.state,
        control_position=now.control.position,
    )
    return Decided((allowed, *_breaker_events(before, after, None)), after, hold)


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


def _breaker_refusal(book: Book) -> Refusal:
    seen = book.user.breaker
    state = BreakerState(seen.state).value
    return Refusal(
        BlockReason.BREAKER_OPEN, {"state": state, "failures": seen.failures, "opened_at_ms": seen.opened_at_ms}
    )
