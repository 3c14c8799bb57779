"""The chain of events, and its seals."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "chain")


def downgrade() -> None:
    run(revision, "down")
