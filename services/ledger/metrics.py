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
