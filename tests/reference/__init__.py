"""The reference in `docs/reference`, from the code: `make reference` writes it, and the suite compares it."""

from __future__ import annotations

from pathlib import Path

from tests.reference import commands, events, http
from tests.supply_chain import licences

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES = {
    "cli.md": commands.page,
    "events.md": events.page,
    "http.md": http.page,
    "licences.md": licences.page,
}  # and tables.md, which takes a database
