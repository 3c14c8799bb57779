"""What the gateway counts."""

from prometheus_client import Counter, Gauge

SUBMISSIONS = Counter("skeldir_gateway_submissions", "Submissions, by door and their fate.", ["door", "status"])
SET_ASIDE = Counter("skeldir_gateway_set_aside", "Entries put into the dead letters, by their stream.", ["origin"])
UNRECOGNISED = Counter(
    "skeldir_gateway_unrecognised", "Submissions taken without asking the books whether their request is an old one."
)
REPLIES = Counter("skeldir_gateway_replies", "Results appended to reply streams, or refused there.", ["status"])
REFUSALS = Counter(
    "skeldir_gateway_refusals",
    "Requests answered with an error of the door, by HTTP status and code; blocked and failed tasks are none.",
    ["status", "code"],
)
LOG_MEMORY = Gauge(
    "skeldir_gateway_log_memory_ratio",
    "Memory of the fullest log server, as a part of its bound; the door shuts at 0.85.",
)
WAITING = Gauge("skeldir_gateway_waiting", "Requests that wait for the end of a task.")
