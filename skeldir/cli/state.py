"""`state`: limits, breakers and switches as policy saw them, now or at a moment that is over."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from shared.control_state import ControlState
from shared.events.envelope import at as time_of
from shared.money import to_cents
from skeldir.cli.books import ArchiveDir, archive_dir, as_owner, run
from skeldir.cli.context import Json, as_text, out, print_json, scope_words, table_by, uuid
from skeldir.cli.replay import moment
from skeldir.past import Past, state_at

Row = dict[str, Any]


def state(
    at: Annotated[str | None, typer.Option(help="When: ISO 8601, UTC. Default: now.")] = None,
    tenant: Annotated[str | None, typer.Option(help="One tenant's, and what is for everybody.")] = None,
    archive: ArchiveDir = None,
    as_json: Json = False,
) -> None:
    """Limits, breakers and switches as policy sees them now, or saw them at a moment."""
    at_ms = moment(at or datetime.now(UTC).isoformat(), "--at")
    assert at_ms is not None, "there is always a time"
    found = run(state_at(as_owner(), at_ms, uuid(tenant, "--tenant"), archive=archive_dir(archive)))
    rows = _rows(found)
    if as_json:
        print_json({"position": found.control.position, **rows})
        return
    for name, lines in rows.items():
        if not lines:
            out.print(f"{name.replace('_', ' ')}: none")
            continue
        table = table_by(*(head.replace("_", " ") for head in lines[0]), title=name.replace("_", " "))
        for line in lines:
            table.add_row(*(as_text(_cell(value)) for value in line.values()))
        out.print(table)
    out.print(f"after the order {found.control.position}; limits that no operator had set are settings, and no events")


def _cell(value: Any) -> str:
    """A value for a person: a scope as its options would be, and nothing where there is nothing."""
    if isinstance(value, dict):
        return scope_words(value)
    return "" if value is None else str(value)


def _rows(found: Past) -> dict[str, list[Row]]:
    control = found.control
    return {
        "kill_switches": [
            {
                "scope": one.scope.model_dump(mode="json", exclude_none=True),
                "reason": one.reason,
                "actor": one.actor,
                "since": _time(one.since_ms),
                "until": _time(one.until_ms),
            }
            for one in control.switches.values()
        ],
        "shutoffs": [
            {
                "tenant_id": tenant,
                "user_id": user,
                "reason": one.reason,
                "actor": one.actor,
                "until": _time(one.until_ms),
            }
            for (tenant, user), one in control.shutoffs.items()
        ]
        + [
            {
                "tenant_id": owner.tenant_id,
                "user_id": owner.user_id,
                "reason": "hourly_threshold_exceeded",
                "actor": None,
                "until": _time(one.until_ms),
            }
            for owner, one in found.tripped.items()
        ],
        "limits": [
            {
                "tenant_id": tenant,
                "user_id": user,
                "hourly_cents": _cents(one.hourly),
                "monthly_cents": _cents(one.monthly),
                "max_in_flight": one.max_in_flight,
            }
            for (tenant, user), one in control.limits.items()
        ],
        **_rules(control),
        "prices": [
            {"tenant_id": tenant, "model": f"{provider}:{model}", "source": one.source, "rates": one.rates}
            for (tenant, provider, model), one in control.prices.items()
        ],
        **_breakers(found),
    }


def _rules(control: ControlState) -> dict[str, list[Row]]:
    return {
        "quotas": [
            {
                "tenant_id": tenant,
                "scope": one.named,
                "unit": "cents" if one.unit == "money" else one.unit,
                "window": one.window,
                "limit": _cents(one.limit) if one.unit == "money" else one.limit,
                "mode": _mode(one.shadow),
            }
            for tenant, quotas in control.quotas.items()
            for one in quotas.by_id.values()
        ],
        "bounds": [
            {
                "tenant_id": tenant,
                "task_type": task_type.value,
                "timeout_ms": one.timeout_ms,
                "max_cost_cents": _cents(one.max_cost),
                "max_tool_calls": one.max_tool_calls,
            }
            for (tenant, task_type), one in control.bounds.items()
        ],
        "downgrades": [
            {
                "tenant_id": tenant,
                "scope": one.scope.model_dump(mode="json", exclude_none=True, exclude={"tenant_id"}),
                "model": one.model,
                "to": one.to,
                "from": f"{one.percent} % of the {one.window}",
                "mode": _mode(one.shadow),
            }
            for tenant, rules in control.downgrades.items()
            for one in rules
        ],
    }


def _breakers(found: Past) -> dict[str, list[Row]]:
    return {
        "breakers_of_models": [
            {
                "model": ":".join(model),
                "state": one.state.value,
                "since": _time(one.since_ms),
                "until": _time(one.until_ms),
                "reason": one.reason,
            }
            for model, one in found.control.provider_breakers.items()
        ],
        "breakers": [
            {
                "tenant_id": owner.tenant_id,
                "user_id": owner.user_id,
                "state": one.state.value,
                "failures": one.failure_count,
                "opened": _time(one.opened_at_ms),
                "reason": one.reason,
            }
            for owner, one in found.breakers.items()
        ],
    }


def _time(ms: int | None) -> str | None:
    return None if ms is None else time_of(ms).isoformat()


def _mode(shadow: bool) -> str:
    return "shadow" if shadow else "enforce"


def _cents(amount: int | None) -> str | None:
    return None if amount is None else f"{to_cents(amount):f}"
