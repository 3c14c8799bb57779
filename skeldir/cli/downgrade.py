"""`downgrade set`, `downgrade unset` and `downgrade show`: a cheaper model near the end of a budget."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from shared.downgrades import Downgrade
from skeldir.cli.context import Json, as_text, out, print_json, uuid, with_redis
from skeldir.cli.control import control_state, publish

app = typer.Typer(help="A cheaper model near the end of a budget.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="Whose calls.")]
User = Annotated[str | None, typer.Option(help="Of this user alone.")]
TaskType = Annotated[str | None, typer.Option(help="Of this task type alone, as `route`.")]
Model = Annotated[str, typer.Option(help="Calls to which models: a pattern, as `openai:gpt-4o*`.")]
Window = Annotated[str, typer.Option(help="Which cap: hour or month.")]


@app.command("set")
def set_(
    tenant: Tenant,
    model: Model,
    to: Annotated[str, typer.Option(help="The cheaper model, as `openai:gpt-4o-mini`.")],
    percent: Annotated[int, typer.Option(help="From so many percent of the cap on, spent and reserved.")],
    window: Window = "month",
    user: User = None,
    task_type: TaskType = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Only record what it would move.")] = False,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "downgrade set",
    as_json: Json = False,
) -> None:
    """Move calls to another model from so many percent of a cap on."""
    rule = {"scope": _scope(tenant, user, task_type), "model": model, "window": window, "to": to, "percent": percent}
    mode = "shadow" if shadow else "enforce"
    publish({"type": "downgrade.set", **rule, "mode": mode, "reason": reason}, as_json)


@app.command()
def unset(
    tenant: Tenant,
    model: Model,
    window: Window = "month",
    user: User = None,
    task_type: TaskType = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "downgrade unset",
    as_json: Json = False,
) -> None:
    """End the downgrade of exactly this scope, pattern and window."""
    rule = {"scope": _scope(tenant, user, task_type), "model": model, "window": window}
    publish({"type": "downgrade.unset", **rule, "reason": reason}, as_json)


@app.command()
def show(tenant: Tenant, as_json: Json = False) -> None:
    """The downgrades of a tenant, in the order in which they are asked: the first that holds moves a call."""
    tenant_id = uuid(tenant, "--tenant")
    assert tenant_id is not None, "the option is required"
    rows = [_shown(one) for one in with_redis(control_state).downgrades.get(tenant_id, ())]
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("no downgrade is set")
        return
    table = Table("scope", "model", "from", "to", "mode")
    for row in rows:
        scope = " ".join(f"{name}={value}" for name, value in row["scope"].items()) or "the tenant"
        start = f"{row['percent']} % of the {row['window']}"
        table.add_row(*map(as_text, (scope, row["model"], start, row["to"], row["mode"])))
    out.print(table)


def _scope(tenant: str, user: str | None, task_type: str | None) -> dict[str, str]:
    found = {"tenant_id": uuid(tenant, "--tenant"), "user_id": uuid(user, "--user"), "task_type": task_type}
    return {name: str(value) for name, value in found.items() if value is not None}


def _shown(rule: Downgrade) -> dict[str, Any]:
    return {
        "scope": rule.scope.model_dump(mode="json", exclude_none=True, exclude={"tenant_id"}),
        "model": rule.model,
        "window": rule.window,
        "percent": rule.percent,
        "to": rule.to,
        "mode": "shadow" if rule.shadow else "enforce",
    }
