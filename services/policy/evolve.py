"""evolve: the book after an event. `decide.py` says which events follow; here stands what they change."""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct
from msgspec.structs import replace

from services.policy import budget, meters
from services.policy.rules import breaker, provider_breaker
from services.policy.state import Book, Breaker, Circumstances, Hold
from shared.events.decisions import TaskBlocked
from shared.events.outcomes import AttemptResolved, DecisionExpired, Spend, TaskFailed, TaskSucceeded
from shared.events.tasks import Task, TaskRef

End = TaskSucceeded | TaskFailed | TaskBlocked | AttemptResolved | DecisionExpired


class Lesson(Enum):
    """What a user's breaker learns from an end. UNDECIDED: nothing of the provider, but a probe's place is free."""

    NOTHING = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    UNDECIDED = auto()


class Effect(Struct, frozen=True):
    """What an end means to the accounts. `cost` in nanocents. `how` says what becomes of the reservation; what nobody
    knows is held: perhaps the money is spent."""

    how: budget.How
    cost: int = 0
    use: meters.Use = meters.Use()
    lesson: Lesson = Lesson.UNDECIDED


BLOCKED = Effect("released")


def evolve_allowed(book: Book, hold: Hold) -> Book:
    """After a task was allowed: its worst case is reserved, and a probe takes one of the breaker's places."""
    user = budget.reserve(book.user, hold)
    if hold.probe_of_ms is not None:
        user = replace(user, breaker=breaker.probing(user.breaker))
    return Book(user, meters.taken(budget.reserve(book.tenant, hold), hold.takes), book.probes)


def evolve_probing(book: Book, task: Task, now: Circumstances) -> Book:
    """After a call was let through a half-open breaker of its model."""
    return replace(book, probes=provider_breaker.probing(book.probes, task, now))


def evolve_ended(book: Book, hold: Hold, effect: Effect, now: Circumstances) -> Book:
    """After an allowed task ended: its reservation is settled, released or held, and the breaker has learned."""
    user = budget.end(book.user, hold, effect.how, effect.cost)
    learned = _learned(book.user.breaker, hold, effect.lesson, now)
    if learned is not user.breaker:
        user = replace(user, breaker=learned)
    tenant = budget.end(book.tenant, hold, effect.how, effect.cost)
    if tenant.meters:
        tenant = meters.ended(tenant, hold, effect.how, effect.use, meters.of_tenant(hold.tenant_id, now))
    return Book(user, tenant, book.probes)


def hold_after(hold: Hold, effect: Effect, task: TaskRef | None) -> Hold | None:
    """What is left of the reservation then: nothing, unless it is held; then it says whose call that was."""
    if effect.how != "held":
        return None
    return replace(hold, state="held", task=task, takes=meters.still_held(hold.takes))


def effect_of(end: End) -> Effect:
    """What an end means."""
    match end:
        case TaskSucceeded():
            usage = end.usage
            return succeeded(end.provider_attempted, usage.cost, usage.input_tokens + usage.output_tokens)
        case TaskFailed():
            usage, tokens = end.usage, end.usage.input_tokens + end.usage.output_tokens
            return failed(end.spend, end.provider_attempted, usage.cost, tokens, counts=end.counts_for_breaker)
        case AttemptResolved():
            return resolved(end.spend, end.usage.cost, end.usage.input_tokens + end.usage.output_tokens)
        case DecisionExpired():
            return given_back(end.spend)
        case TaskBlocked():
            return BLOCKED


def succeeded(called: bool, cost: int, tokens: int) -> Effect:
    """An answer. One from the cache was no call."""
    if not called:
        return Effect("released")
    return Effect("settled", cost, meters.Use(1, tokens or None, cost), Lesson.SUCCEEDED)


def failed(spend: Spend, called: bool, cost: int, tokens: int, *, counts: bool) -> Effect:
    """No answer. A call that failed at no cost was a call, too; `counts`: for the breaker."""
    return _spent(spend, int(called), cost, tokens, Lesson.FAILED if counts else Lesson.UNDECIDED)


def resolved(spend: Spend, cost: int, tokens: int) -> Effect:
    """An uncertain attempt became known. Its task failed when it timed out, and was counted by the breaker then."""
    return _spent(spend, 1, cost, tokens, Lesson.NOTHING)


def given_back(spend: Spend) -> Effect:
    """An allow was given back. A lost attempt is held, and its task decided again: the next one reserves for itself."""
    return Effect("held" if spend == "uncertain" else "released")


def _spent(spend: Spend, calls: int, cost: int, tokens: int, lesson: Lesson) -> Effect:
    if spend == "certain":
        return Effect("settled", cost, meters.Use(calls, tokens or None, cost), lesson)
    return Effect("held" if spend == "uncertain" else "released", 0, meters.Use(calls), lesson)


def _learned(before: Breaker, hold: Hold, lesson: Lesson, now: Circumstances) -> Breaker:
    match lesson:
        case Lesson.NOTHING:
            return before
        case Lesson.SUCCEEDED:
            return breaker.succeeded(before, hold)
        case Lesson.FAILED:
            return breaker.failed(before, hold, now.now_ms, now.config)
        case Lesson.UNDECIDED:
            return breaker.undecided(before, hold)
