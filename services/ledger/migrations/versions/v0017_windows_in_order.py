"""The windows of all tenants, in the order in which they are listed."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "indexes")


def downgrade() -> None:
    run(revision, "down")
