"""How calls ended by quarter of an hour, for tenants and for all."""

from __future__ import annotations

from services.ledger.migrations.sql import run

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run(revision, "quarters", "functions", "rows")


def downgrade() -> None:
    run(revision, "down")
