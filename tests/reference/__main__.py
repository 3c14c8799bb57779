"""`make reference`: writes the pages that the code knows best. The tables are those of a database that it starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from services.ledger import migrate
from skeldir.embedded import EmbeddedPostgres
from tests.reference import FOLDER, PAGES, tables

for name, page in PAGES.items():
    (FOLDER / name).write_text(page())
with tempfile.TemporaryDirectory() as folder:
    server = EmbeddedPostgres(Path(folder))
    server.start()
    try:
        migrate.upgrade(server.url("skeldir_owner"))
        (FOLDER / "tables.md").write_text(tables.page(server.url("skeldir_owner")))
    finally:
        server.stop()
