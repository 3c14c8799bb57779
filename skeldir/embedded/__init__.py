"""Real PostgreSQL and Valkey servers from PyPI wheels, as root or not, that stop with the process that owns them."""

from skeldir.embedded.postgres import EmbeddedPostgres
from skeldir.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey"]
