"""Sums over all tenants, for operators, and the total of each tenant's month."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0014"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "tables", "functions", "views", "indexes", "security")


def downgrade() -> None:
    run(revision, "down")
