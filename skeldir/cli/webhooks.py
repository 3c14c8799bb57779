"""`webhooks set|list|remove|test|failures|retry`: events to the outside."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import orjson
import typer

from shared.control_state import Webhook
from shared.webhook_signing import headers, secret_of, shown
from skeldir.cli.context import (
    CommandError,
    Json,
    as_text,
    database_url,
    find_running,
    load_settings,
    out,
    print_json,
    table_by,
    uuid,
    with_redis,
)
from skeldir.cli.control import append, control_state

T = TypeVar("T")

app = typer.Typer(help="Signed messages about events, to a URL of yours.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="Its id, as `webhooks list` shows it.")]
ENDS = "task.succeeded,task.failed,task.blocked"


@app.command("set")
def set_(
    url: Annotated[str, typer.Option(help="Where to: https://...")],
    tenant: Annotated[str | None, typer.Option(help="Whose events. None: everybody's, for operators.")] = None,
    events: Annotated[str, typer.Option(help="Their types, separated by commas.")] = ENDS,
    webhook_id: Annotated[str | None, typer.Option("--id", help="One that is there, to replace it.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "webhook set",
    as_json: Json = False,
) -> None:
    """Tell a URL of events from now on. Shows the secret that signs."""
    name, tenant_id, key = webhook_id or f"wh_{secrets.token_hex(8)}", uuid(tenant, "--tenant"), _key()
    types = [one.strip() for one in events.split(",") if one.strip()]
    order = {"type": "webhook.set", "webhook_id": name, "url": url, "events": types, "reason": reason}
    append(order if tenant_id is None else {**order, "tenant_id": str(tenant_id)})
    secret = shown(secret_of(key, name))
    if as_json:
        print_json({"webhook_id": name, "secret": secret, "url": url, "events": types, "tenant_id": tenant})
        return
    out.print(f"[bold]{name}[/bold] {as_text(', '.join(types))}\n{secret}\n[dim]the secret; it is stored nowhere[/dim]")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """The webhooks, and what waits for them."""
    from services.ledger.webhooks import report

    found = _asked(report.counts(_books()))
    rows = [_row(hook, found.get(hook.webhook_id, {})) for hook in with_redis(control_state).webhooks.values()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("no webhooks")
        return
    table = table_by("webhook", "tenant", "url", "events", "state", "waiting", "given up", "skipped")
    for row in rows:
        table.add_row(*(as_text(" ".join(value) if isinstance(value, list) else str(value)) for value in row.values()))
    out.print(table)


def _row(hook: Webhook, numbers: dict[str, Any]) -> dict[str, Any]:
    return {
        "webhook_id": hook.webhook_id,
        "tenant_id": str(hook.tenant_id) if hook.tenant_id else "",
        "url": hook.url,
        "events": sorted(hook.events),
        "state": "ended by 410" if numbers.get("ended_ms") == hook.since_ms else "active",
        **{name: int(numbers.get(name) or 0) for name in ("waiting", "given_up", "skipped")},
    }


@app.command()
def remove(
    webhook_id: Id,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "webhook removed",
    as_json: Json = False,
) -> None:
    """Tell it nothing any more; what waits is given up."""
    hook = _hook(webhook_id)
    append({"type": "webhook.removed", "webhook_id": hook.webhook_id, "reason": reason})
    _say(as_json, webhook_id, "removed")


@app.command("test")
def try_(webhook_id: Id, as_json: Json = False) -> None:
    """Send one `webhook.test` from here, once, and say what came of it."""
    from services.ledger.webhooks.post import post

    hook, key, settings = _hook(webhook_id), _key(), load_settings()
    body = orjson.dumps({"type": "webhook.test", "timestamp": datetime.now(UTC).isoformat(), "data": {}})
    signed = headers(secret_of(key, webhook_id), f"msg_{uuid4()}", int(time.time()), body)
    timeout_s, allow_private = settings.webhook_timeout_ms / 1000, settings.webhooks_allow_private
    answer = asyncio.run(post(hook.url, signed, body, timeout_s=timeout_s, allow_private=allow_private))
    if answer.status is None or not 200 <= answer.status < 300:
        raise CommandError(f"{webhook_id}: {answer.problem or f'answered {answer.status}'}")
    _say(as_json, webhook_id, f"answered {answer.status}")


@app.command()
def failures(
    webhook_id: Annotated[str | None, typer.Argument(help="Only this one's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 100,
    as_json: Json = False,
) -> None:
    """Messages that were given up, and gaps: what was not queued because too much waited."""
    from services.ledger.webhooks import report

    rows = _asked(report.failures(_books(), webhook_id, limit))
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("no failures")
        return
    table = table_by("webhook", "message", "type", "tries", "problem", "at")
    for row in rows:
        table.add_row(*(as_text(str(value or "")) for value in row.values()))
    out.print(table)


@app.command()
def retry(webhook_id: Id, as_json: Json = False) -> None:
    """Queue again what was given up for this webhook."""
    from services.ledger.webhooks import report

    _say(as_json, _hook(webhook_id).webhook_id, f"{_asked(report.retry(_books(), webhook_id))} messages queued again")


def _hook(webhook_id: str) -> Webhook:
    found = with_redis(control_state).webhooks.get(webhook_id)
    if found is None:
        raise CommandError(f"there is no webhook {webhook_id}")
    return found


def _key() -> str:
    """What secrets derive from: the configured key, else the running system's."""
    settings = load_settings()
    if settings.webhook_secret_key is not None:
        return settings.webhook_secret_key.get_secret_value()
    found = find_running(settings)
    if found is None or found.webhook_secret_key is None:
        raise CommandError("set SKELDIR_WEBHOOK_SECRET_KEY, as the ledger has it")
    return found.webhook_secret_key


def _books() -> str:
    return database_url(load_settings(), "admin_database_url")


def _asked(question: Coroutine[Any, Any, T]) -> T:
    import asyncpg

    try:
        return asyncio.run(question)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the books cannot be read: {error}") from error


def _say(as_json: bool, webhook_id: str, said: str) -> None:
    if as_json:
        print_json({"webhook_id": webhook_id, "status": said})
    else:
        out.print(f"{webhook_id}: {said}", markup=False)
