"""judge: whether a task may go, and on what terms. Pure, as `decide.py`, which makes the events of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from services.policy import budget, meters
from services.policy.evolve import evolve_allowed, evolve_probing
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
from services.policy.state import Book, Circumstances, Hold, Owner
from shared.bounds import bounds_of
from shared.events.decisions import BlockReason, BreakerState, PassedOver, TaskDowngraded
from shared.events.tasks import Task
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


class Allow(Struct, frozen=True):
    """The task may go. `book` is the one after it; `price.amount` is reserved by `hold`."""

    request: Request
    price: Quote
    hold: Hold
    book: Book
    cache_only: BlockReason | None = None
    """Only to the cache, since a breaker is open."""
    probe: bool = False
    others: Sequence[fallback.Option] = ()
    passed_over: PassedOver | None = None
    moved: TaskDowngraded | None = None


class Block(Struct, frozen=True):
    """The task may not go. `rule`: which file of `rules/` says so."""

    request: Request
    rule: str
    refusal: Refusal
    moved: TaskDowngraded | None = None


class Wait(Struct, frozen=True):
    """The task is held back until an outcome of this user is known (see `rules/breaker.py`)."""


Verdict = Allow | Block | Wait


def judge_task(book: Book, task: Task, owner: Owner, decision_id: UUID, now: Circumstances) -> Verdict:
    """Allow, block, or hold back one task. An allow's reservation is `decision_id`."""
    task, moved = downgrade.apply(book, task, owner.tenant_id, owner.user_id, now)
    verdict = _judge(book, task, owner, decision_id, now)
    return verdict if moved is None or isinstance(verdict, Wait) else replace(verdict, moved=moved)


def _judge(book: Book, task: Task, owner: Owner, decision_id: UUID, now: Circumstances) -> Verdict:
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
            return Block(request, name, refusal)
    passage = breaker.passage(book.user, now)
    if passage is breaker.Passage.REFUSE:
        if task.cache_key is None:
            return Block(request, "breaker", _breaker_refusal(book))
        return _allow(book, request, Quote(0, None), decision_id, now, cache_only=BlockReason.BREAKER_OPEN)
    terms = terms_of(request, now)
    others: Sequence[fallback.Option] = fallback.options(request, terms, now)
    across = provider_breaker.passage(book.probes, task, now)
    unavailable = BlockReason.PROVIDER_BREAKER_OPEN if across is breaker.Passage.REFUSE else None
    if unavailable is None:
        try:
            choice = fallback.Option(task, quote(task, terms))
        except Refused as refused:
            if not others or refused.reason not in fallback.UNAVAILABLE:
                return Block(request, "price_bound", Refusal(refused.reason, {"problem": str(refused)}))
            unavailable = refused.reason
    elif not others:
        refusal = provider_breaker.refusal(task, now)
        if task.cache_key is None:
            return Block(request, "provider_breaker", refusal)
        return _allow(book, request, Quote(0, None), decision_id, now, cache_only=BlockReason.PROVIDER_BREAKER_OPEN)
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
        return Block(request, *refused_by)
    if passage is breaker.Passage.WAIT:
        return Wait()
    probe, of_model = passage is breaker.Passage.PROBE, across is breaker.Passage.PROBE
    return _allow(
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


def _allow(
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
) -> Allow:
    hold = Hold(
        reservation_id=decision_id,
        tenant_id=request.tenant_id,
        user_id=request.user_id,
        amount=price.amount,
        hour=request.hour,
        month=request.month,
        probe_of_ms=book.user.breaker.opened_at_ms if probe else None,
        takes=tuple(one.take for one in request.wanted if one.fits),
    )
    after = evolve_allowed(book, hold)
    if probe_of_model:
        after = evolve_probing(after, request.task, now)
    return Allow(request, price, hold, after, cache_only, probe or probe_of_model, others, passed_over)


def _breaker_refusal(book: Book) -> Refusal:
    seen = book.user.breaker
    state = BreakerState(seen.state).value
    return Refusal(
        BlockReason.BREAKER_OPEN, {"state": state, "failures": seen.failures, "opened_at_ms": seen.opened_at_ms}
    )
