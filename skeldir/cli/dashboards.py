"""`dashboards export`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from rich.table import Table

from services.ledger.dashboards import DashboardProblem, export
from skeldir.cli.context import CommandError, Json, database_url, load_settings, out, print_json, uuid

app = typer.Typer(help="The four dashboards.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The four dashboards."""


@app.command("export")
def export_(
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    user: Annotated[list[str], typer.Option(help="A user's id; may be given several times.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for the CSV files; made where it is missing.")],
    as_json: Json = False,
) -> None:
    """Write the four CSVs. Fails (exit 1) where a header differs or an output has no row."""
    tenant_id = uuid(tenant, "--tenant")
    user_ids = [found for one in user if (found := uuid(one, "--user"))]
    if tenant_id is None or not user_ids:
        raise CommandError("give --tenant, and --user at least once")
    if to.exists() and not to.is_dir():
        raise CommandError(f"--out is a folder, not {str(to)!r}")
    url = database_url(load_settings())
    try:
        paths = asyncio.run(export(url, tenant_id, user_ids, to))
    except DashboardProblem as problem:
        typer.echo(f"skeldir: {problem}", err=True)
        raise typer.Exit(1) from problem
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the dashboards cannot be exported: {error}") from error
    rows = {str(path): len(path.read_text().splitlines()) - 1 for path in paths}
    if as_json:
        print_json({"files": [{"path": path, "rows": count} for path, count in rows.items()]})
        return
    table = Table("file", "rows")
    for path, count in rows.items():
        table.add_row(path, str(count))
    out.print(table)
