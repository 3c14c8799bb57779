"""`cache`: what is cached of a tenant's answers."""

from __future__ import annotations

from typing import Annotated

import typer

from skeldir.cli.context import Json, as_text, out, print_json
from skeldir.cli.control import append

app = typer.Typer(help="Cached answers.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Cached answers."""


@app.command()
def purge(
    tenant: Annotated[str, typer.Option(help="Whose cache.")],
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "cache purged",
    as_json: Json = False,
) -> None:
    """Serve nothing any more that was cached until now, and keep nothing that is being asked."""
    scope = {"tenant_id": tenant, **({} if user is None else {"user_id": user})}
    entry_id = append({"type": "cache.purged", "scope": scope, "reason": reason})
    if as_json:
        print_json({"entry_id": entry_id, "scope": scope})
    else:
        out.print(f"the cache of {as_text(user or tenant)} is purged ({entry_id})")
