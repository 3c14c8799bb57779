"""Events, projections, dashboards, and row-level security on all of them."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "tables", "views", "security")


def downgrade() -> None:
    run(revision, "down")
