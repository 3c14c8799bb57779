"""Room for the end of a call beside its beginning."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "storage")


def downgrade() -> None:
    run(revision, "down")
