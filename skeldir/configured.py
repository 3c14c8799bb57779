"""Your own database under `skeldir up`: what would start and then silently not hold is refused, or said."""

from __future__ import annotations

import psycopg

from shared.settings import Settings


class HalfConfigured(RuntimeError):
    """The system would come up without its books; the text says what to set."""


def require_database(settings: Settings) -> None:
    """Before anything is started. Raises HalfConfigured."""
    if settings.database_url is None and settings.ledger_database_url is not None:
        raise HalfConfigured("SKELDIR_LEDGER_DATABASE_URL is set without SKELDIR_DATABASE_URL: set both, or neither")


def check_roles(settings: Settings) -> list[str]:
    """After the migration: what is to be said about the roles. Raises HalfConfigured where the ledger cannot write."""
    assert settings.database_url is not None, "only for a configured database"
    reader, reader_writes = _look("SKELDIR_DATABASE_URL", settings.database_url)
    if settings.ledger_database_url is None:
        name, writer, writes = "SKELDIR_DATABASE_URL", reader, reader_writes
    else:
        name = "SKELDIR_LEDGER_DATABASE_URL"
        writer, writes = _look(name, settings.ledger_database_url)
    if not writes:
        raise HalfConfigured(
            f"{name} connects as {writer}, which cannot write the books: "
            "set SKELDIR_LEDGER_DATABASE_URL, as skeldir_ledger"
        )
    if reader_writes:
        return [
            f"warning: SKELDIR_DATABASE_URL connects as {reader}, which sees every tenant: "
            "set it as app_user, and SKELDIR_LEDGER_DATABASE_URL as skeldir_ledger"
        ]
    return []


def _look(name: str, url: str) -> tuple[str, bool]:
    """The role, and whether it has the ledger's rights by itself (the owner has them only after SET ROLE)."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            query = "SELECT current_user, pg_has_role(current_user, 'skeldir_ledger', 'USAGE')"
            found = connection.execute(query).fetchone()
    except psycopg.Error as error:
        raise HalfConfigured(f"{name}: {error}") from error
    assert found is not None, "a query without FROM has one row"
    return str(found[0]), bool(found[1])
