"""What quotas have counted."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "quota_use")


def downgrade() -> None:
    run(revision, "down")
