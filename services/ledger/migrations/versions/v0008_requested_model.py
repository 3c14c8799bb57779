"""Which model was asked for, where a call went to another."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "requested_model")


def downgrade() -> None:
    run(revision, "down")
