"""`docs/reference/tables.md` says what a migrated database has."""

from __future__ import annotations

import pytest

from skeldir.embedded import EmbeddedPostgres
from tests.reference import FOLDER, tables


def test_the_page_of_tables_is_current(postgres: EmbeddedPostgres) -> None:
    assert (FOLDER / "tables.md").read_text() == tables.page(postgres.url("skeldir_owner")), "run `make reference`"


def test_a_table_without_a_meaning_is_refused(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {group: dict(of) for group, of in tables.MEANINGS.items()}
    del known["Webhooks"]["webhook_gaps"]
    monkeypatch.setattr(tables, "MEANINGS", known)
    with pytest.raises(ValueError, match="webhook_gaps"):
        tables.page(postgres.url("skeldir_owner"))
