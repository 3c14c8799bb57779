"""The keys of encrypted texts."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "data_keys")


def downgrade() -> None:
    run(revision, "down")
