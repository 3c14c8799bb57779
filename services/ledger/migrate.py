"""Migrations: up and down, as the owner role."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

MIGRATIONS = Path(__file__).parent / "migrations"
# Two processes that start at once migrate one after the other.
LOCK = 0x536B656C


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Raises alembic.util.CommandError for one that does not exist."""
    _run(database_url, lambda config: command.upgrade(config, revision))


def downgrade(database_url: str, revision: str) -> None:
    """Take the schema back to `revision`; `base` removes everything."""
    _run(database_url, lambda config: command.downgrade(config, revision))


def newest() -> str:
    """The revision that this release needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "there is a first version"
    return head


def _run(database_url: str, work: Callable[[Config], None]) -> None:
    engine = sqlalchemy.create_engine(sqlalchemy_url(database_url), poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            connection.commit()
            config = _config()
            config.attributes["connection"] = connection
            work(config)
            connection.commit()
    finally:
        engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def sqlalchemy_url(database_url: str) -> sqlalchemy.URL:
    """A `postgresql://` URL with the driver that migrations use."""
    return sqlalchemy.make_url(database_url).set(drivername="postgresql+psycopg")
