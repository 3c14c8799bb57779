"""What policy counts."""

from prometheus_client import Counter, Gauge, Histogram

DECISIONS = Counter("skeldir_policy_decisions", "Tasks decided, by verdict and reason.", ["verdict", "reason"])
PARKED = Gauge("skeldir_policy_parked", "Tasks held back until an outcome is known.", ["partition"])
TURN_SIZE = Histogram("skeldir_policy_turn_size", "Entries of one turn.", buckets=(1, 5, 20, 50, 100, 250, 500, 1000))
COMMIT_SECONDS = Histogram("skeldir_policy_commit_seconds", "Time of one atomic commit.")
LEADS = Gauge("skeldir_policy_partitions_led", "Partitions this process is the writer of.")
