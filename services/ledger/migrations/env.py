"""How Alembic runs: on the connection that `services.ledger.migrate` made."""

from __future__ import annotations

from alembic import context

# The SQL of a version is the truth about the schema, so there is no metadata to compare with.
context.configure(connection=context.config.attributes["connection"], target_metadata=None, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
