"""Events by month."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "months")


def downgrade() -> None:
    run(revision, "down")
