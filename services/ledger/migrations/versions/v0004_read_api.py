"""Indexes of the read API."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "indexes")


def downgrade() -> None:
    run(revision, "down")
