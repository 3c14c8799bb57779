"""The SQL of each version, in files: readable with any tool, and runnable by psql."""

from __future__ import annotations

from importlib import resources

from alembic import op


def run(version: str, *names: str) -> None:
    """Execute `sql/<version>/<name>.sql` for each name, in this order."""
    connection = op.get_bind().execution_options(no_parameters=True)
    for name in names:
        text = resources.files(__package__).joinpath(version, f"{name}.sql").read_text()
        connection.exec_driver_sql(text)
