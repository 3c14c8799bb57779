"""Events by their number: what a rebuild reads."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "index")


def downgrade() -> None:
    run(revision, "down")
