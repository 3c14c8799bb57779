"""`kill-switch` and `shutoff`: orders, published to the control stream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import orjson
import typer
from redis.asyncio import Redis
from rich.table import Table

from shared.control_state import ControlState, Switch, stops_nothing
from shared.events.control import (
    ControlEvent,
    InvalidControl,
    KillSwitchEngaged,
    KillSwitchReleased,
    Scope,
    parse_control,
)
from shared.routing import providers_of
from shared.settings import Settings
from shared.streams.control_reader import ControlReader
from shared.streams.orders import publish_order
from skeldir.cli.context import (
    CENTURY_MINUTES,
    CommandError,
    Json,
    actor,
    as_text,
    database_url,
    err,
    load_settings,
    out,
    print_json,
    scope_words,
    uuid,
    with_redis,
)

kill_switch = typer.Typer(help="Stop calls, everywhere or in a scope.", no_args_is_help=True)
shutoff = typer.Typer(help="Shut one user off for a while.", no_args_is_help=True)

Tenant = Annotated[str | None, typer.Option(help="A tenant's id.")]
User = Annotated[str | None, typer.Option(help="A user's id, within the tenant.")]
Provider = Annotated[str | None, typer.Option(help="A provider, as `openai`.")]
Model = Annotated[str | None, typer.Option(help="A model, as `gpt-4o-mini` or `openai:gpt-4o-mini`.")]
TaskType = Annotated[str | None, typer.Option(help="A task type, as `route`.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded and shown.")]


@kill_switch.command()
def engage(
    reason: Reason,
    tenant: Tenant = None,
    user: User = None,
    provider: Provider = None,
    model: Model = None,
    task_type: TaskType = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, max=CENTURY_MINUTES, help="Ends by itself after so long.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would stop.")] = False,
    as_json: Json = False,
) -> None:
    """No call starts in this scope from now on. Without a scope: none at all."""
    until = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat() if minutes is not None else None
    scope = _scope(tenant, user, provider, model, task_type)
    event: dict[str, Any] = {"type": "kill_switch.engaged", "scope": scope, "reason": reason}
    if until:
        event["until"] = until
    if dry_run:
        _say_reach(_checked(event)[1], as_json)
        return
    publish(event, as_json)
    if (unknown := unknown_provider(_checked(event)[1], providers_of(load_settings()))) is not None:
        err.print(f"skeldir: {unknown}", markup=False, highlight=False, soft_wrap=True)


def unknown_provider(order: ControlEvent, known: Collection[str]) -> str | None:
    """What to say where the scope's provider is none that is known here: a name that is misspelt stops nothing."""
    assert isinstance(order, KillSwitchEngaged), "made so"
    provider = order.scope.provider
    if provider is None or provider in known:
        return None
    return (
        f"engaged, but no provider {provider!r} is known here: {', '.join(sorted(known))}; --dry-run says what it stops"
    )


def _say_reach(order: ControlEvent, as_json: bool) -> None:
    # Here, and not above: an order must not wait for libraries that it does not need.
    import asyncpg

    from services.ledger.reach import reach

    assert isinstance(order, KillSwitchEngaged), "made so"
    try:
        found = asyncio.run(reach(database_url(load_settings(), "admin_database_url"), order.scope))
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the books cannot be read: {error}") from error
    if as_json:
        print_json(
            {"status": "dry run", "scope": order.scope.model_dump(mode="json", exclude_none=True), **asdict(found)}
        )
        return
    out.print(
        f"would stop {found.under_way} tasks under way; in the last hour {found.calls} calls of a provider went "
        f"through there, of {found.users} users of {found.tenants} tenants, for {found.cost_cents:f} cents. "
        "Nothing was engaged."
    )


@kill_switch.command()
def release(
    reason: Reason,
    tenant: Tenant = None,
    user: User = None,
    provider: Provider = None,
    model: Model = None,
    task_type: TaskType = None,
    as_json: Json = False,
) -> None:
    """End the switch that was engaged with exactly this scope."""
    scope = _scope(tenant, user, provider, model, task_type)
    event = {"type": "kill_switch.released", "scope": scope, "reason": reason}
    try:
        before = with_redis(control_state)
    except CommandError:  # it is released all the same, by whoever may
        before = None
    publish(event, as_json)
    if before is None:
        return
    if (missed := released_nothing(_checked(event)[1], before, datetime.now(UTC))) is not None:
        err.print(f"skeldir: {missed}", markup=False, highlight=False, soft_wrap=True)


def released_nothing(order: ControlEvent, before: ControlState, now: datetime) -> str | None:
    """What to say where no switch had exactly this scope: whoever released it may believe that calls flow."""
    assert isinstance(order, KillSwitchReleased), "made so"
    engaged = [switch.scope for switch in _engaged(before, now)]
    if order.scope in engaged:
        return None
    left = "; ".join(_named(scope) for scope in engaged) or "none"
    return f"no switch had exactly this scope, so nothing was released; still engaged: {left}"


def _engaged(state: ControlState, now: datetime) -> list[Switch]:
    return [one for one in state.switches.values() if one.until_ms is None or one.until_ms > now.timestamp() * 1000]


def _named(scope: Scope) -> str:
    """A scope as the options that engage and release it would say it."""
    return scope_words(scope.model_dump(mode="json", exclude_none=True))


@kill_switch.command()
def status(as_json: Json = False) -> None:
    """The switches that are engaged: scope, reason, since when, and who."""
    state = with_redis(control_state)
    rows: list[dict[str, Any]] = [
        {
            "scope": switch.scope.model_dump(mode="json", exclude_none=True),
            "reason": switch.reason,
            "actor": switch.actor,
            "since": _time(switch.since_ms),
            "until": _time(switch.until_ms),
        }
        for switch in _engaged(state, datetime.now(UTC))
    ]
    if as_json:
        print_json({"engaged": bool(rows), "switches": rows})
        return
    if not rows:
        out.print("no kill switch is engaged")
        return
    table = Table("scope", "reason", "who", "since", "until")
    for row in rows:
        shown = scope_words(row["scope"]), row["reason"], row["actor"], row["since"], row["until"]
        table.add_row(*map(as_text, shown))
    out.print(table)


@shutoff.command("engage")
def shutoff_engage(
    reason: Reason,
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    user: Annotated[str, typer.Option(help="The user's id.")],
    minutes: Annotated[float | None, typer.Option(help="How long; without it until the clock hour ends.")] = None,
    as_json: Json = False,
) -> None:
    """Block one user's tasks, with this reason."""
    event: dict[str, Any] = {"type": "shutoff.engaged", "scope": _scope(tenant, user), "reason": reason}
    publish({**event, "minutes": minutes} if minutes is not None else event, as_json)


@shutoff.command("release")
def shutoff_release(
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    user: Annotated[str, typer.Option(help="The user's id.")],
    reason: Reason = "released",
    as_json: Json = False,
) -> None:
    """End a manual shutoff."""
    publish({"type": "shutoff.released", "scope": _scope(tenant, user), "reason": reason}, as_json)


def publish(event: dict[str, Any], as_json: bool) -> None:
    """Check an order, append it, and say so. Raises CommandError for one that cannot be applied."""
    entry_id = append(event)
    if as_json:
        print_json({"status": "published", "entry_id": entry_id, **event, "actor": actor()})
        return
    said = f"[bold]{event['type']}[/bold] {as_text(scope_words(event['scope']))} [dim](entry {entry_id})[/dim]"
    out.print(said, soft_wrap=True)


def append(event: dict[str, Any]) -> str:
    """Check an order and append it; its entry's id. Raises CommandError for one that cannot be applied."""
    data, order = _checked(event)
    if stops_nothing(order, int(datetime.now(UTC).timestamp() * 1000)):
        raise CommandError(f"{event['type']}: its end has passed already, so it would stop nothing")

    async def add(redis: Redis, _: Settings) -> str:
        return await publish_order(redis, data)

    return with_redis(add)


def _checked(event: dict[str, Any]) -> tuple[bytes, ControlEvent]:
    """An order as it is written, and as it is read."""
    for name, value in event.items():
        if isinstance(value, float) and not math.isfinite(value):  # JSON has none: it would say `null`, as if not given
            raise CommandError(f"{name} is a number, not {value}")
    try:
        data = orjson.dumps({**event, "actor": actor()})
        return data, parse_control(data)
    except TypeError as error:
        raise CommandError(f"{event['type']}: {error}") from error
    except InvalidControl as error:
        raise CommandError(str(error)) from error


async def control_state(redis: Redis, settings: Settings) -> ControlState:
    """The fold of the control stream as it is now."""
    reader = ControlReader(redis, settings.control_staleness_ms)
    await reader.catch_up()
    return reader.state


def _scope(
    tenant: str | None,
    user: str | None,
    provider: str | None = None,
    model: str | None = None,
    task_type: str | None = None,
) -> dict[str, str]:
    found = {
        "tenant_id": uuid(tenant, "--tenant"),
        "user_id": uuid(user, "--user"),
        "provider": provider,
        "model": model,
        "task_type": task_type,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _time(moment_ms: int | None) -> str:
    if moment_ms is None:
        return ""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
