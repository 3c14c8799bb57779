"""`limits set`, `limits unset` and `limits show`."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from services.policy import budget
from services.policy.state import Account, Bucket
from shared.control_state import ControlState, Limits
from shared.money import from_cents, to_cents
from skeldir.cli import quotas
from skeldir.cli.context import CommandError, Json, load_settings, out, print_json, table_by, uuid, with_redis
from skeldir.cli.control import publish

app = typer.Typer(help="What a tenant or a user may spend.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="The tenant's id.")]
User = Annotated[str | None, typer.Option(help="One user; without it the tenant as a whole.")]
Key = Annotated[str | None, typer.Option(help="One API key, by its id.")]
TaskType = Annotated[str | None, typer.Option(help="One task type, as `route`.")]
Model = Annotated[str | None, typer.Option(help="One model, as `gpt-4o-mini` or `openai:gpt-4o-mini`.")]
Per = Annotated[str | None, typer.Option(help="minute, hour, day or month, by the clock, UTC.")]


@app.command("set")
def set_(
    tenant: Tenant,
    user: User = None,
    hourly_cents: Annotated[str | None, typer.Option(help="Cents in a clock hour; fractions are taken.")] = None,
    monthly_cents: Annotated[str | None, typer.Option(help="Cents in a calendar month.")] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="Allowed tasks without an end at once.")] = None,
    key: Key = None,
    task_type: TaskType = None,
    model: Model = None,
    calls: Annotated[int | None, typer.Option(help="Calls in a window (`--per`).")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens in a window, input and output together.")] = None,
    cents: Annotated[str | None, typer.Option(help="Cents in a window.")] = None,
    per: Per = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Only record what it would block.")] = False,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "limits set",
    as_json: Json = False,
) -> None:
    """Set limits; what is not given stays as it was. With a window (`--per`) or a key, task type or model: a quota."""
    scope = _scope(tenant, user, key, task_type, model)
    given = {"calls": calls, "tokens": tokens, "cents": cents, "max_in_flight": max_in_flight}
    if shadow or any((key, task_type, model, per)) or (calls, tokens, cents) != (None, None, None):
        if hourly_cents is not None or monthly_cents is not None:
            raise CommandError("give --cents N --per hour (or month) with a scope or a window")
        publish(quotas.order(scope, given, per, shadow, reason), as_json)
        return
    event: dict[str, Any] = {"type": "limits.set", "scope": scope, "reason": reason}
    given = {"hourly_cents": hourly_cents, "monthly_cents": monthly_cents, "max_in_flight": max_in_flight}
    publish({**event, **{name: value for name, value in given.items() if value is not None}}, as_json)


@app.command()
def unset(
    tenant: Tenant,
    limit: Annotated[str, typer.Option(help="calls, tokens, cents or max-in-flight.")],
    per: Per = None,
    user: User = None,
    key: Key = None,
    task_type: TaskType = None,
    model: Model = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "limit unset",
    as_json: Json = False,
) -> None:
    """End the quota of exactly this scope, limit and window."""
    about = {"scope": _scope(tenant, user, key, task_type, model), "unit": quotas.unit_of(limit), "window": per}
    publish({"type": "quota.unset", "reason": reason, **about}, as_json)


@app.command()
def show(tenant: Tenant, user: User = None, as_json: Json = False) -> None:
    """The limits that hold, where each comes from, and what is spent, held and free."""
    tenant_id, user_id = uuid(tenant, "--tenant"), uuid(user, "--user")
    if tenant_id is None:
        raise CommandError("give --tenant")
    settings = load_settings()
    control, accounts = with_redis(partial(quotas.seen, tenant_id=tenant_id, user_id=user_id))
    now_ms = int(time.time() * 1000)
    own = control.limits.get((tenant_id, user_id), Limits()) if user_id else Limits()
    of_tenant = control.limits.get((tenant_id, None), Limits())
    rows = [
        {"limit": "hourly_cents", **_pick(own.hourly, of_tenant.hourly, from_cents(settings.hourly_shutoff_cents))},
        {"limit": "monthly_cents", **_pick(own.monthly, of_tenant.monthly, from_cents(settings.monthly_cap_cents))},
        {"limit": "max_in_flight", **_pick(own.max_in_flight, of_tenant.max_in_flight, settings.max_in_flight)},
    ]
    shown = [_with_use(row, accounts, user_id is not None, now_ms) for row in rows]
    found = quotas.rows(control, accounts[0], tenant_id, user_id, now_ms)
    of_users = [] if user_id else _of_users(control, tenant_id)
    if as_json:
        who = {"tenant_id": str(tenant_id), "user_id": str(user_id) if user_id else None}
        print_json({**who, "limits": shown, "users": of_users, "quotas": found})
        return
    table = Table("limit", "value", "from", "spent", "held", "free")
    for row in shown:
        table.add_row(*(row.get(name, "") for name in ("limit", "value", "from", "spent", "held", "free")))
    out.print(table)
    if of_users:
        own_limits = table_by("user", *(row["limit"] for row in rows), title="Users with limits of their own")
        for one in of_users:
            own_limits.add_row(one["user_id"], *(one.get(row["limit"], "") for row in rows))
        out.print(own_limits)
    if found:
        out.print(quotas.table(found))


def _of_users(control: ControlState, tenant_id: UUID) -> list[dict[str, str]]:
    """The users who have limits of their own, and those: a tenant's count for them, too."""
    found = []
    for (tenant, user), limits in sorted(control.limits.items(), key=str):
        if tenant == tenant_id and user is not None:
            money = {"hourly_cents": limits.hourly, "monthly_cents": limits.monthly}
            own = {name: _cents(value) for name, value in money.items() if value is not None}
            if limits.max_in_flight is not None:
                own["max_in_flight"] = str(limits.max_in_flight)
            found.append({"user_id": str(user), **own})
    return found


def _scope(tenant: str, user: str | None, key: str | None, task_type: str | None, model: str | None) -> dict[str, str]:
    ids = {"tenant_id": uuid(tenant, "--tenant"), "user_id": uuid(user, "--user")}
    found = {**ids, "key_id": key, "task_type": task_type, "model": model}
    return {name: str(value) for name, value in found.items() if value is not None}


def _pick(own: int | None, of_tenant: int | None, default: int) -> dict[str, Any]:
    if own is not None:
        return {"value": own, "from": "user"}
    if of_tenant is not None:
        return {"value": of_tenant, "from": "tenant, all its users together"}
    return {"value": default, "from": "default, each user"}


def _with_use(row: dict[str, Any], accounts: tuple[Account, Account], of_user: bool, now_ms: int) -> dict[str, str]:
    """The row as it is printed, with what is spent, held and free of that limit where one account says so."""
    name, value = row["limit"], row["value"]
    if name == "max_in_flight":
        return {"limit": name, "value": str(value), "from": row["from"]}
    shown = {"limit": name, "value": _cents(value), "from": row["from"]}
    if row["from"].startswith("tenant"):
        account = accounts[0]
    elif of_user:
        account = accounts[1]
    else:
        return shown
    if name == "hourly_cents":
        bucket = account.hours.get(budget.current_hour(accounts[0], now_ms), Bucket())
    else:
        bucket = account.months.get(budget.current_month(accounts[0], now_ms), Bucket())
    free = max(0, value - bucket.committed)
    return {**shown, "spent": _cents(bucket.spent), "held": _cents(bucket.reserved), "free": _cents(free)}


def _cents(nanocents: int) -> str:
    return f"{to_cents(nanocents):f}"
