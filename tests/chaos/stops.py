"""A stop stops: calls that the provider received between the acknowledgement of a kill switch and its release. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.evidence import Call, Evidence, Switch

BOUND_MS = 1000.0
"""On a machine that is busier than any should be. What the bound is on one that is not, the bench measures."""
STALE_MS = 3000.0
"""Who cannot read the control stream blocks after two seconds; one more for a busy machine."""
CLAIM = f"No call {BOUND_MS:.0f} ms after a switch ({STALE_MS:.0f} where the log was away)."


def switches_hold(seen: Evidence) -> tuple[int, Iterator[str]]:
    def bound(switch: Switch, call: Call) -> float:
        troubled = any(since < call.at_ms and until > switch.since_ms for since, until in seen.troubles)
        return STALE_MS if troubled else BOUND_MS

    return len(seen.switches), (
        f"attempt {call.attempt_id}: called {late:.0f} ms after the acknowledgement"
        for switch, call, late in after_switches(seen)
        if late > bound(switch, call)
    )


def after_switches(seen: Evidence) -> Iterator[tuple[Switch, Call, float]]:
    """Calls in the scope of a switch while it was engaged, and how many milliseconds its executor had run since."""
    for switch in seen.switches:
        for call in seen.calls:
            attempt = seen.attempts.get(call.attempt_id)
            in_scope = switch.tenant is None or (attempt is not None and attempt.tenant == switch.tenant)
            if not in_scope or not switch.since_ms < call.at_ms < switch.until_ms:
                continue
            executor = attempt.data["executor"] if attempt is not None else ""
            stopped = sum(
                max(0.0, min(pause.until_ms, call.at_ms) - max(pause.since_ms, switch.since_ms))
                for pause in seen.pauses
                if executor.startswith(f"executor-{pause.pid}-")
            )
            yield switch, call, call.at_ms - switch.since_ms - stopped
