"""The circuit breaker of one user: closed, open, half-open (Nygard, "Release It!"; resilience4j's half-open permits).

    closed --threshold consecutive failures--> open --open time over--> half-open --success--> closed
                                                 ^---------------------failure----------'

While closed, the calls whose outcome is not known yet count too. A user starts with as many calls in flight as the
threshold; each success proves one more, and after a failure only as many may be out as failures are left to the
threshold. So a burst against a dead provider sends `threshold` calls, not all of them. What does not fit waits.
"""

from __future__ import annotations

from enum import Enum, auto

from msgspec.structs import replace

from services.policy.state import Account, Breaker, Circumstances, Hold, PolicyConfig
from shared.events.decisions import BreakerState


class Passage(Enum):
    """What the breaker says to a task."""

    PASS = auto()
    PROBE = auto()
    WAIT = auto()
    REFUSE = auto()


def passage(account: Account, now: Circumstances) -> Passage:
    """Whether a call of this user may go out now."""
    breaker, config = account.breaker, now.config
    match breaker.state:
        case BreakerState.CLOSED:
            return Passage.PASS if account.in_flight < room(breaker, config) else Passage.WAIT
        case BreakerState.OPEN:
            assert breaker.opened_at_ms is not None, "an open breaker knows since when"
            return Passage.PROBE if now.now_ms >= breaker.opened_at_ms + config.open_ms else Passage.REFUSE
        case BreakerState.HALF_OPEN:
            return Passage.PROBE if breaker.probes < config.half_open_probes else Passage.REFUSE


def room(breaker: Breaker, config: PolicyConfig) -> int:
    """How many calls may be in flight while closed; at least one."""
    if breaker.failures > 0:
        return max(1, config.failure_threshold - breaker.failures)
    return max(config.failure_threshold, breaker.proven)


def probing(breaker: Breaker) -> Breaker:
    """One more probe is out."""
    return replace(breaker, state=BreakerState.HALF_OPEN, probes=breaker.probes + 1)


def succeeded(breaker: Breaker, hold: Hold) -> Breaker:
    """After a call that the provider answered."""
    if breaker.state is BreakerState.CLOSED:
        return replace(breaker, failures=0, proven=breaker.proven + 1)
    if _is_probe(breaker, hold):
        return Breaker(last_trip_at_ms=breaker.last_trip_at_ms, proven=1)
    return breaker  # the answer to a call that went out before the breaker opened says nothing about now


def failed(breaker: Breaker, hold: Hold, now_ms: int, config: PolicyConfig) -> Breaker:
    """After a call that the provider failed."""
    if breaker.state is BreakerState.CLOSED:
        failures = breaker.failures + 1
        if failures < config.failure_threshold:
            return replace(breaker, failures=failures, proven=0)
        return Breaker(BreakerState.OPEN, failures, opened_at_ms=now_ms, last_trip_at_ms=now_ms)
    if _is_probe(breaker, hold):
        return Breaker(BreakerState.OPEN, breaker.failures + 1, opened_at_ms=now_ms, last_trip_at_ms=now_ms)
    return breaker


def undecided(breaker: Breaker, hold: Hold) -> Breaker:
    """After a call that says nothing about the provider: a probe's place becomes free again."""
    return replace(breaker, probes=breaker.probes - 1) if _is_probe(breaker, hold) else breaker


def _is_probe(breaker: Breaker, hold: Hold) -> bool:
    return breaker.state is BreakerState.HALF_OPEN and hold.probe_of_ms == breaker.opened_at_ms is not None
