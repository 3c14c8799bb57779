"""Circuit breakers of models, across tenants: what the control stream says of them (docs/breakers.md).

closed --failures--> open --open time over--> half-open --probes succeed--> closed
                      ^------------a probe fails------------'
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.events.control import ProviderBreakerChanged, ProviderBreakerReset, entry_ms, to_ms
from shared.events.decisions import BreakerState

Model = tuple[str, str]
"""A provider, and its name of a model."""


@dataclass(frozen=True, slots=True)
class ProviderBreaker:
    """The breaker of one model. Nothing is known of a model whose breaker never opened: it is closed."""

    state: BreakerState = BreakerState.CLOSED
    version: int = 0
    position: str = "0-0"
    """The control entry that said so."""
    since_ms: int = 0
    until_ms: int | None = None
    """While open: when it is to be half-open."""
    openings: int = 0
    """How many times in a row it has opened without closing in between."""
    probes: int = 0
    """While half-open: calls that each partition may let through in one open time."""
    reason: str = ""
    actor: str = ""


def after_change(event: ProviderBreakerChanged, entry_id: str) -> ProviderBreaker:
    """The breaker as the event says it is."""
    return ProviderBreaker(
        state=event.state,
        version=event.version,
        position=entry_id,
        since_ms=entry_ms(entry_id),
        until_ms=None if event.until is None else to_ms(event.until),
        openings=event.openings,
        probes=event.probes,
        reason=event.reason,
        actor=event.actor,
    )


def after_reset(before: ProviderBreaker, event: ProviderBreakerReset, entry_id: str) -> ProviderBreaker:
    """Closed by an operator. The version grows, so that what was counted till now is seen to be void."""
    closed = ProviderBreaker(version=before.version + 1, position=entry_id, since_ms=entry_ms(entry_id))
    return replace(closed, reason=event.reason, actor=event.actor)
