"""decide: whether a model's breaker changes its state, by a call that ended or by the time. Pure.

    closed --many bad calls, of more than one user--> open --its time over--> half-open --enough good probes--> closed
                                                       ^------------a bad probe-----------'

A call counts for a half-open breaker if it began after that: only probes do. What ends while the breaker is open went
out before, and says nothing of now.
"""

from __future__ import annotations

from dataclasses import replace

from services.policy.provider_breakers.config import BreakerConfig
from services.policy.provider_breakers.window import Call, Window, add, why_open
from shared.events.control import BreakerFigures, ProviderBreakerChanged
from shared.events.decisions import BreakerState
from shared.events.envelope import at
from shared.provider_breakers import Model, ProviderBreaker

ACTOR = "policy"


def decide_call(
    breaker: ProviderBreaker, window: Window, call: Call, config: BreakerConfig, now_ms: int
) -> tuple[Window, ProviderBreakerChanged | None]:
    """What is known after a call, and the change that follows from it."""
    if now_ms - call.ended_ms > config.window_ms:
        return window, None
    match breaker.state:
        case BreakerState.CLOSED:
            window = add(window, call, config)
            why = why_open(window, config) if call.is_bad else None
            return window, _opened(breaker, call.model, why, window.figures, config, now_ms) if why else None
        case BreakerState.OPEN:
            return window, None
        case BreakerState.HALF_OPEN:
            if call.began_ms < breaker.since_ms:
                return window, None
            if call.is_bad:
                why = "a probe failed" if call.failed else "a probe was slow"
                figures = BreakerFigures(calls=window.proven + 1, failed=call.failed, slow=call.slow)
                return Window(), _opened(breaker, call.model, why, figures, config, now_ms)
            window = replace(window, proven=window.proven + 1)
            if window.proven < breaker.probes:
                return window, None
            change = _change(breaker, call.model, BreakerState.CLOSED, f"probes succeeded: {window.proven}")
            return Window(), change


def decide_time(
    breaker: ProviderBreaker, model: Model, config: BreakerConfig, now_ms: int
) -> ProviderBreakerChanged | None:
    """The change that the time brings."""
    if breaker.state is not BreakerState.OPEN or now_ms < due_ms(breaker):
        return None
    change = _change(breaker, model, BreakerState.HALF_OPEN, "open time over")
    return change.model_copy(update={"openings": breaker.openings, "probes": config.probes})


def due_ms(breaker: ProviderBreaker) -> int:
    """When an open breaker is to be half-open."""
    return breaker.since_ms if breaker.until_ms is None else breaker.until_ms


def _opened(
    before: ProviderBreaker, model: Model, why: str, figures: BreakerFigures, config: BreakerConfig, now_ms: int
) -> ProviderBreakerChanged:
    openings = before.openings + 1
    until = at(now_ms + config.open_time_ms(openings))
    change = _change(before, model, BreakerState.OPEN, why)
    return change.model_copy(update={"until": until, "openings": openings, "figures": figures})


def _change(before: ProviderBreaker, model: Model, state: BreakerState, why: str) -> ProviderBreakerChanged:
    provider, name = model
    return ProviderBreakerChanged(
        actor=ACTOR,
        reason=why,
        provider=provider,
        model=name,
        state=state,
        previous=before.state,
        version=before.version + 1,
    )
