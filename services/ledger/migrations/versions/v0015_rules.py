"""Quotas, bounds and downgrades in force."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "tables")


def downgrade() -> None:
    run(revision, "down")
