"""The ledger: every event in an append-only table, and its projections, in one transaction with the checkpoint."""
