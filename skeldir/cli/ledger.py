"""`ledger rebuild` and `ledger verify`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

import asyncpg
import typer
from rich.table import Table

from services.ledger.rebuild import rebuild
from services.ledger.verify import CHECKS, verify
from shared.events.registry import UndecodableEvent
from skeldir.cli.context import CommandError, Json, database_url, load_settings, out, print_json

T = TypeVar("T")

app = typer.Typer(help="The books: rebuild the projections, verify the balances.", no_args_is_help=True)


@app.command("rebuild")
def rebuild_(as_json: Json = False) -> None:
    """Make the projections again from the events. Readers see the old ones until the new ones are complete."""
    report = _run(rebuild(_url()))
    if as_json:
        print_json(asdict(report))
        return
    table = Table("projection", "rows")
    for name, count in report.rows.items():
        table.add_row(name, str(count))
    out.print(table)
    out.print(f"{report.events} events")


@app.command("verify")
def verify_(as_json: Json = False) -> None:
    """Check that the books balance. Exit 1 where they do not."""
    report = _run(verify(_url()))
    if as_json:
        print_json(
            {"sound": report.sound, "checks": report.checks, "findings": [asdict(one) for one in report.findings]}
        )
    else:
        table = Table("check", "claim", "findings")
        for check in CHECKS:
            table.add_row(check.name, check.claim, str(report.checks[check.name]))
        out.print(table)
        for one in report.findings:
            out.print(f"{one.check}: {one.subject}: {one.problem}", soft_wrap=True, markup=False)
    if not report.sound:
        raise typer.Exit(1)


def _url() -> str:
    """As the owner, who may take the ledger's role."""
    return database_url(load_settings(), "admin_database_url")


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except UndecodableEvent as error:
        raise CommandError(f"an event in the books cannot be read by this release: {error}") from error
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the books cannot be read or written: {error}") from error
