"""What policy counts."""

from prometheus_client import Counter, Gauge, Histogram

from shared.control_state import ControlState
from shared.events.decisions import BreakerState

DECISIONS = Counter("skeldir_policy_decisions", "Tasks decided, by verdict and reason.", ["verdict", "reason"])
SHADOWED = Counter("skeldir_policy_shadowed", "Tasks that a quota in shadow mode would have blocked.", ["unit"])
DOWNGRADED = Counter("skeldir_policy_downgraded", "Tasks moved to a cheaper model.", ["mode"])
PARKED = Gauge("skeldir_policy_parked", "Tasks held back until an outcome is known.", ["partition"])
AHEAD = Gauge("skeldir_policy_ahead", "1: decides no more until executors catch up.", ["partition"])
TURN_SIZE = Histogram("skeldir_policy_turn_size", "Entries of one turn.", buckets=(1, 5, 20, 50, 100, 250, 500, 1000))
COMMIT_SECONDS = Histogram("skeldir_policy_commit_seconds", "Time of one atomic commit.")
LEADS = Gauge("skeldir_policy_partitions_led", "Partitions this process is the writer of.")
PROVIDER_BREAKER = Gauge(
    "skeldir_provider_breaker_state",
    "0 closed, 1 half-open, 2 open; of models whose breaker ever opened.",
    ["provider", "model"],
)
_SHOWN = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


def show_provider_breakers(control: ControlState) -> None:
    """Set the gauge from the control stream."""
    for (provider, model), breaker in control.provider_breakers.items():
        PROVIDER_BREAKER.labels(provider, model).set(_SHOWN[breaker.state])
