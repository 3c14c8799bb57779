"""`statement`: what a tenant's month cost, as a table, as CSV and as a page to print."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from rich.table import Table

from services.ledger import statements
from services.ledger.dashboards import cell
from skeldir.cli.context import CommandError, Json, as_text, database_url, load_settings, out, print_json, uuid


def statement(
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    month: Annotated[str, typer.Option(help="The month, as in 2026-11; in UTC.")],
    to: Annotated[Path | None, typer.Option("--out", help="Folder for the CSV file and the page to print.")] = None,
    as_json: Json = False,
) -> None:
    """What a tenant's month cost, by user and model, to the last unit of the books."""
    tenant_id, first = uuid(tenant, "--tenant"), _month(month)
    assert tenant_id is not None, "it is not optional"
    if to is not None and to.exists() and not to.is_dir():
        raise CommandError(f"--out is a folder, not {str(to)!r}")
    url = database_url(load_settings(), "admin_database_url")
    try:
        found = asyncio.run(statements.statement(url, tenant_id, first))
        files = [] if to is None else _write(to, found)
    except statements.DoesNotAddUp as problem:
        typer.echo(f"skeldir: {problem}: run skeldir ledger verify", err=True)
        raise typer.Exit(1) from problem
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the statement cannot be made: {error}") from error
    if as_json:
        print_json({**statements.as_record(found), "files": [str(file) for file in files]})
        return
    if not found.lines:
        out.print(f"no calls in {month} of tenant {tenant_id}", soft_wrap=True)
    else:
        _show(found, f"{month}, tenant {tenant_id}")
    if found.held_cents:
        out.print(f"held for calls that have not ended, and not part of the sum: {cell(found.held_cents)} cents")
    for file in files:
        out.print(str(file), soft_wrap=True)


def _show(found: statements.Statement, title: str) -> None:
    table = Table("user", "model", "calls", "cents", title=title, show_footer=True)
    table.columns[0].footer = "total"
    table.columns[2].footer, table.columns[3].footer = str(found.calls), cell(found.cost_cents)
    for column in table.columns[2:]:
        column.justify = "right"
    for line in found.lines:
        table.add_row(str(line.user_id), as_text(line.model), str(line.calls), cell(line.cost_cents))
    out.print(table)


def _month(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise CommandError(f"--month is a year and a month, as in 2026-11, not {text!r}") from error


def _write(to: Path, found: statements.Statement) -> list[Path]:
    to.mkdir(parents=True, exist_ok=True)
    name = f"statement-{found.month:%Y-%m}-{found.tenant_id}"
    files = {to / f"{name}.csv": statements.as_csv(found)}
    files[to / f"{name}.html"] = statements.as_page(found, datetime.now(UTC))
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    return list(files)
