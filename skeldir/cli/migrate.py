"""`migrate`."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy.exc
import typer
from alembic.util import CommandError as AlembicError

from services.ledger import migrate as migrations
from skeldir.cli.context import CommandError, database_url, load_settings, out


def migrate(
    down: Annotated[str | None, typer.Option(help="Go back to this revision; `base` removes everything.")] = None,
) -> None:
    """Bring the database to this release's schema, as the owner role."""
    if down == "":  # alembic takes it for granted that something is named
        raise CommandError("--down is a revision, or `base`, not ''")
    url = database_url(load_settings(), "admin_database_url")
    try:
        if down is None:
            migrations.upgrade(url)
        else:
            migrations.downgrade(url, down)
    except (AlembicError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise CommandError(f"migration failed: {error}") from error
    out.print(f"the database is at revision {down or migrations.newest()}")
