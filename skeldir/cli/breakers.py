"""`breakers`: circuit breakers of models, across tenants."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from shared.events.decisions import BreakerState
from skeldir.cli.context import CommandError, Json, as_text, out, print_json, with_redis
from skeldir.cli.control import append, control_state

app = typer.Typer(help="Circuit breakers of models, for all tenants at once.")


@app.callback(invoke_without_command=True)
def list_(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Those too that have closed again.")] = False,
    as_json: Json = False,
) -> None:
    """The breakers that are open or half-open: since when, until when, why."""
    if context.invoked_subcommand is not None:
        return
    rows: list[dict[str, Any]] = [
        {
            "provider": provider,
            "model": model,
            "state": BreakerState(breaker.state).value,
            "since": _time(breaker.since_ms),
            "until": _time(breaker.until_ms),
            "reason": breaker.reason,
            "actor": breaker.actor,
            "openings": breaker.openings,
            "version": breaker.version,
        }
        for (provider, model), breaker in sorted(with_redis(control_state).provider_breakers.items())
        if every or breaker.state is not BreakerState.CLOSED
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("no breaker of a model is open")
        return
    table = Table("model", "state", "since", "until", "reason", "by")
    for row in rows:
        shown = (f"{row['provider']}:{row['model']}", row["state"], row["since"], row["until"])
        table.add_row(*(as_text(one or "") for one in (*shown, row["reason"], row["actor"])))
    out.print(table)


@app.command()
def reset(
    model: Annotated[str, typer.Argument(help="As `openai:gpt-4o-mini`.")],
    reason: Annotated[str, typer.Option(help="Why; it is recorded and shown.")],
    as_json: Json = False,
) -> None:
    """Close a model's breaker now, and forget what it has counted."""
    provider, colon, name = model.partition(":")
    if not colon or not provider or not name:
        raise CommandError(f"{model!r} names no model: give PROVIDER:MODEL, as openai:gpt-4o-mini")
    event = {"type": "provider_breaker.reset", "provider": provider, "model": name, "reason": reason}
    entry_id = append(event)
    if as_json:
        print_json({"status": "published", "entry_id": entry_id, **event})
    else:
        out.print(f"{as_text(model)} is closed [dim](entry {entry_id})[/dim]")


def _time(moment_ms: int | None) -> str | None:
    if moment_ms is None:
        return None
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
