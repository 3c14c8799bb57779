"""`limits set` and `limits show`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from shared.control_state import Limits
from shared.money import to_cents
from skeldir.cli.context import CommandError, Json, load_settings, out, print_json, uuid, with_redis
from skeldir.cli.control import control_state, publish

app = typer.Typer(help="What a tenant or a user may spend.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="The tenant's id.")]
User = Annotated[str | None, typer.Option(help="One user; without it the tenant as a whole.")]


@app.command("set")
def set_(
    tenant: Tenant,
    user: User = None,
    hourly_cents: Annotated[str | None, typer.Option(help="Cents in a clock hour; fractions are taken.")] = None,
    monthly_cents: Annotated[str | None, typer.Option(help="Cents in a calendar month.")] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="Allowed tasks without an end at once.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "limits set",
    as_json: Json = False,
) -> None:
    """Set limits; what is not given stays as it was."""
    scope = {"tenant_id": str(uuid(tenant, "--tenant"))}
    if user is not None:
        scope["user_id"] = str(uuid(user, "--user"))
    event: dict[str, Any] = {"type": "limits.set", "scope": scope, "reason": reason}
    given = {"hourly_cents": hourly_cents, "monthly_cents": monthly_cents, "max_in_flight": max_in_flight}
    publish({**event, **{name: value for name, value in given.items() if value is not None}}, as_json)


@app.command()
def show(tenant: Tenant, user: User = None, as_json: Json = False) -> None:
    """The limits that hold, and where each comes from."""
    tenant_id, user_id = uuid(tenant, "--tenant"), uuid(user, "--user")
    if tenant_id is None:
        raise CommandError("give --tenant")
    settings = load_settings()
    limits = with_redis(control_state).limits
    own = limits.get((tenant_id, user_id), Limits()) if user_id else Limits()
    of_tenant = limits.get((tenant_id, None), Limits())
    rows = [
        _row("hourly_cents", own.hourly, of_tenant.hourly, str(settings.hourly_shutoff_cents)),
        _row("monthly_cents", own.monthly, of_tenant.monthly, str(settings.monthly_cap_cents)),
        {"limit": "max_in_flight", **_pick(own.max_in_flight, of_tenant.max_in_flight, str(settings.max_in_flight))},
    ]
    if as_json:
        print_json({"tenant_id": str(tenant_id), "user_id": str(user_id) if user_id else None, "limits": rows})
        return
    table = Table("limit", "value", "from")
    for row in rows:
        table.add_row(row["limit"], row["value"], row["from"])
    out.print(table)


def _row(name: str, own: int | None, of_tenant: int | None, default: str) -> dict[str, str]:
    values = [None if value is None else f"{to_cents(value):f}" for value in (own, of_tenant)]
    return {"limit": name, **_pick(values[0], values[1], default)}


def _pick(own: Any, of_tenant: Any, default: str) -> dict[str, str]:
    if own is not None:
        return {"value": str(own), "from": "user"}
    if of_tenant is not None:
        return {"value": str(of_tenant), "from": "tenant, all its users together"}
    return {"value": default, "from": "default, each user"}
