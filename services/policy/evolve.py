"""evolve: the book after an event. `decide.py` says which events follow; here stands what they change."""

from __future__ import annotations

from msgspec.structs import replace

from services.policy import budget, meters
from services.policy.rules import breaker, provider_breaker
from services.policy.state import Book, Breaker, Circumstances, Hold
from shared.events.decisions import TaskBlocked
from shared.events.outcomes import AttemptResolved, DecisionExpired, TaskFailed, TaskSucceeded
from shared.events.tasks import Task, ref_of

End = TaskSucceeded | TaskFailed | TaskBlocked | AttemptResolved | DecisionExpired


def evolve_allowed(book: Book, hold: Hold) -> Book:
    """After a task was allowed: its worst case is reserved, and a probe takes one of the breaker's places."""
    user = budget.reserve(book.user, hold)
    if hold.probe_of_ms is not None:
        user = replace(user, breaker=breaker.probing(user.breaker))
    return replace(book, user=user, tenant=meters.taken(budget.reserve(book.tenant, hold), hold.takes))


def evolve_probing(book: Book, task: Task, now: Circumstances) -> Book:
    """After a call was let through a half-open breaker of its model."""
    return replace(book, probes=provider_breaker.probing(book.probes, task, now))


def evolve_ended(book: Book, hold: Hold, end: End, now: Circumstances) -> Book:
    """After an allowed task ended: its reservation is settled, released or held, and the breaker has learned."""
    how, cost = settlement(end)
    user = budget.end(book.user, hold, how, cost)
    user = replace(user, breaker=_learned(book.user.breaker, hold, end, now))
    tenant = budget.end(book.tenant, hold, how, cost)
    if tenant.meters:
        tenant = meters.ended(tenant, hold, how, used(end), meters.of_tenant(hold.tenant_id, now))
    return replace(book, user=user, tenant=tenant)


def hold_after(hold: Hold, end: End) -> Hold | None:
    """What is left of the reservation then: nothing, unless it is held."""
    if settlement(end)[0] != "held":
        return None
    return replace(hold, state="held", task=ref_of(end.task), takes=meters.still_held(hold.takes))


def settlement(end: End) -> tuple[budget.How, int]:
    """How the reservation ends, and at what cost. What nobody knows is held: perhaps the money is spent."""
    if isinstance(end, TaskSucceeded) and end.provider_attempted:
        return "settled", end.usage.cost
    if isinstance(end, TaskFailed | AttemptResolved):
        if end.spend == "certain":
            return "settled", end.usage.cost
        if end.spend == "uncertain":
            return "held", 0
    if isinstance(end, DecisionExpired) and end.spend == "uncertain":
        return "held", 0  # a lost attempt whose task is decided again: the next one reserves for itself
    return "released", 0


def used(end: End) -> meters.Use:
    """What the quotas count of it. A call that failed at no cost was a call; an answer from the cache was none."""
    how, cost = settlement(end)
    if isinstance(end, TaskBlocked | DecisionExpired):
        return meters.Use()
    calls = int(isinstance(end, AttemptResolved) or end.provider_attempted)
    if how != "settled":
        return meters.Use(calls)
    return meters.Use(calls, (end.usage.input_tokens + end.usage.output_tokens) or None, cost)


def _learned(before: Breaker, hold: Hold, end: End, now: Circumstances) -> Breaker:
    if isinstance(end, AttemptResolved):
        return before  # its task failed when it timed out, and was counted then
    if isinstance(end, TaskSucceeded) and end.provider_attempted:
        return breaker.succeeded(before, hold)
    if isinstance(end, TaskFailed) and end.counts_for_breaker:
        return breaker.failed(before, hold, now.now_ms, now.config)
    return breaker.undecided(before, hold)
