"""A dashboard of uncertain attempts."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "views")


def downgrade() -> None:
    run(revision, "down")
