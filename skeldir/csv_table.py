"""A CSV file as a table that a terminal of 80 columns holds."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from rich.box import Box
from rich.console import Console
from rich.table import Table

ROWS = 8
BOX = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
"""A line below the names, a space between columns."""
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[ T](\d{2}:\d{2}:\d{2})")


def show(file: Path, console: Console) -> None:
    """The first rows; names are broken at their underscores, ids and times shortened."""
    with file.open() as text:
        names, *rows = csv.reader(text)
    table = Table(
        title=file.stem, title_justify="left", title_style="bold", box=BOX, padding=0, pad_edge=False, show_edge=False
    )
    for name in names:
        words = name.replace("_latency_", "_").split("_")
        table.add_column("\n".join(words), no_wrap=True, vertical="bottom")
    for row in rows[:ROWS]:
        table.add_row(*map(_short, row))
    console.print(table)
    if len(rows) > ROWS:
        console.print(f"[dim]... and {len(rows) - ROWS} more in {file}[/dim]")


def _short(cell: str) -> str:
    """The beginning of an id, and of a moment the time of day."""
    if _ID.fullmatch(cell):
        return cell[:8]
    moment = _MOMENT.match(cell)
    return moment[1] if moment else cell
