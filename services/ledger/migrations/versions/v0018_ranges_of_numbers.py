"""The index on the numbers of events keeps several ranges for each block of pages."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "index")


def downgrade() -> None:
    run(revision, "down")
