"""What the ledger counts, for `/metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("skeldir_ledger_events_total", "Events taken into the books.", ["stream"])
DUPLICATES = Counter("skeldir_ledger_duplicates_total", "Events that were in the books already.")
SKIPPED = Counter("skeldir_ledger_skipped_total", "Entries that could not be read or projected.", ["stream"])
COMMIT_SECONDS = Histogram("skeldir_ledger_commit_seconds", "Time of one commit.")
LAG_SECONDS = Gauge("skeldir_ledger_lag_seconds", "Age of the last entry taken, when it was committed.", ["source"])
TRIMMED = Counter("skeldir_ledger_trimmed_total", "Entries removed from the log behind every reader.", ["stream"])
WEBHOOKS = Counter("skeldir_ledger_webhooks_total", "Messages to webhooks, by what became of a try.", ["outcome"])
LEADS = Gauge("skeldir_ledger_leads", "Partitions that this process writes.")
ARCHIVE_OVERDUE = Gauge(
    "skeldir_ledger_archive_overdue_months", "Months of events that should be in the archive, and are not."
)

REPLICA_LAG = Gauge("skeldir_ledger_replica_lag_seconds", "How far the replica that is read is behind its primary.")

# What `measures.py` sees, of the whole system.
READER_LAG = Gauge(
    "skeldir_lag_seconds", "Age of the oldest entry that this reader has not read.", ["partition", "reader"]
)
PENDING = Gauge("skeldir_pending", "Decisions that executors hold.", ["partition"])
OLDEST_PENDING = Gauge(
    "skeldir_oldest_pending_seconds", "Age of the oldest decision that executors hold; 0: none.", ["partition"]
)
DEAD_LETTERS = Gauge("skeldir_dead_letters", "Dead letters that nobody has dealt with, of the newest 1000.")
SPENT = Gauge("skeldir_spent_cents", "Spent in this calendar month, all tenants together.")
RESERVED = Gauge("skeldir_reserved_cents", "Reserved in this calendar month and not settled, all tenants together.")
UNCERTAIN = Gauge("skeldir_uncertain_attempts", "Attempts whose end nobody knows: to be reconciled.")
UNCERTAIN_CENTS = Gauge("skeldir_uncertain_cents", "What those hold as perhaps spent.")
OPEN_BREAKERS = Gauge("skeldir_open_breakers", "Users whose breaker is open.")
MEASURED = Gauge("skeldir_measured_timestamp_seconds", "When this ledger service last saw all of that.")
