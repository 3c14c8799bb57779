"""`privacy set` and `privacy show`: what is stored of a tenant's texts, and what may not stand in its prompts."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from shared.privacy import TenantPrivacy
from skeldir.cli.context import CommandError, Json, load_settings, out, print_json, uuid, with_redis
from skeldir.cli.control import control_state, publish

app = typer.Typer(help="What is stored of a tenant's texts, and what blocks its prompts.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="Whose texts.")]


@app.command("set")
def set_(
    tenant: Tenant,
    store: Annotated[str | None, typer.Option(help="What the books keep: full, redacted or none.")] = None,
    block: Annotated[
        list[str] | None, typer.Option(help="Block a prompt with such a finding: key, email, iban, card or phone.")
    ] = None,
    block_nothing: Annotated[bool, typer.Option("--block-nothing", help="No finding blocks any more.")] = False,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "privacy set",
    as_json: Json = False,
) -> None:
    """Say what is stored from now on, and which findings block. What is stored already stays as it is."""
    if block and block_nothing:
        raise CommandError("give --block or --block-nothing, not both")
    wanted = {"store": store, "block": [] if block_nothing else block or None}
    given = {name: value for name, value in wanted.items() if value is not None}
    scope = {"tenant_id": str(uuid(tenant, "--tenant"))}
    publish({"type": "privacy.set", "scope": scope, **given, "reason": reason}, as_json)


@app.command()
def show(tenant: Tenant, as_json: Json = False) -> None:
    """What is stored of a tenant's texts, and what blocks its prompts."""
    tenant_id = uuid(tenant, "--tenant")
    assert tenant_id is not None, "the option is required"
    found = _shown(with_redis(control_state).privacy_of(tenant_id), load_settings().store_texts)
    if as_json:
        print_json(found)
        return
    table = Table("texts in the books", "findings that block")
    table.add_row(found["store"], " ".join(found["block"]) or "none")
    out.print(table)


def _shown(privacy: TenantPrivacy, default: str) -> dict[str, Any]:
    return {"store": privacy.store or default, "block": sorted(privacy.block)}
