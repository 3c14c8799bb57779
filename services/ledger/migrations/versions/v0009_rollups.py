"""Rollups of calls: what the dashboards read."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "tables", "functions", "views", "security")


def downgrade() -> None:
    run(revision, "down")
