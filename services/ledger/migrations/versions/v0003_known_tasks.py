"""Recognising tasks that the log has forgotten."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "functions")


def downgrade() -> None:
    run(revision, "down")
