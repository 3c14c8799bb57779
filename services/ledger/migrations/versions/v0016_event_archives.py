"""Files that months of events have left the database for."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "archives")


def downgrade() -> None:
    run(revision, "down")
