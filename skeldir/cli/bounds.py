"""`bounds set`, `bounds unset` and `bounds show`: what a single task of a type may take."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from shared.bounds import Bounds
from shared.money import to_cents
from skeldir.cli.context import Json, out, print_json, uuid, with_redis
from skeldir.cli.control import control_state, publish

app = typer.Typer(help="What a single task of a type may take.", no_args_is_help=True)

TaskType = Annotated[str, typer.Option(help="The task type, as `route`.")]
Tenant = Annotated[str | None, typer.Option(help="One tenant's tasks; without it everybody's.")]


@app.command("set")
def set_(
    task_type: TaskType,
    tenant: Tenant = None,
    timeout_ms: Annotated[int | None, typer.Option(help="Milliseconds that a call may take.")] = None,
    max_cost_cents: Annotated[str | None, typer.Option(help="The most that a task may cost.")] = None,
    max_tool_calls: Annotated[int | None, typer.Option(help="Tool calls that a conversation may hold.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "bounds set",
    as_json: Json = False,
) -> None:
    """Set bounds; what is not given stays as it was."""
    given = {"timeout_ms": timeout_ms, "max_cost_cents": max_cost_cents, "max_tool_calls": max_tool_calls}
    bounds = {name: value for name, value in given.items() if value is not None}
    publish({"type": "bounds.set", "scope": _scope(task_type, tenant), "reason": reason, **bounds}, as_json)


@app.command()
def unset(
    task_type: TaskType,
    tenant: Tenant = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "bounds unset",
    as_json: Json = False,
) -> None:
    """End all bounds of exactly this task type and tenant."""
    publish({"type": "bounds.unset", "scope": _scope(task_type, tenant), "reason": reason}, as_json)


@app.command()
def show(tenant: Tenant = None, as_json: Json = False) -> None:
    """The bounds that were set: everybody's, and those of tenants."""
    tenant_id = uuid(tenant, "--tenant")
    known = with_redis(control_state).bounds
    rows = [
        {"tenant_id": None if owner is None else str(owner), "task_type": task_type.value, **_shown(bounds)}
        for (owner, task_type), bounds in known.items()
        if tenant_id is None or owner in (None, tenant_id)
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("no bounds are set")
        return
    table = Table("tenant", "task type", "timeout ms", "max cost cents", "max tool calls")
    for row in rows:
        table.add_row(row["tenant_id"] or "all", *("" if one is None else str(one) for one in list(row.values())[1:]))
    out.print(table)


def _scope(task_type: str, tenant: str | None) -> dict[str, str]:
    tenant_id = uuid(tenant, "--tenant")
    return {"task_type": task_type, **({} if tenant_id is None else {"tenant_id": str(tenant_id)})}


def _shown(bounds: Bounds) -> dict[str, Any]:
    cost = None if bounds.max_cost is None else f"{to_cents(bounds.max_cost):f}"
    return {"timeout_ms": bounds.timeout_ms, "max_cost_cents": cost, "max_tool_calls": bounds.max_tool_calls}
