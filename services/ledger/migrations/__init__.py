"""Alembic migrations; each version's SQL lies in `sql/<version>/`."""
