"""The queue of messages to webhooks."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "tables")


def downgrade() -> None:
    run(revision, "down")
