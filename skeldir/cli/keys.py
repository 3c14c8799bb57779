"""`key create|rotate|revoke|list`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import orjson
import typer
from redis.asyncio import Redis

from shared.control_state import Key
from shared.events.control import KeyRevoked
from shared.partitions import CONTROL
from shared.settings import Settings
from skeldir.cli.context import (
    CENTURY_DAYS,
    CENTURY_MINUTES,
    CommandError,
    Json,
    actor,
    as_text,
    out,
    print_json,
    table_by,
    uuid,
    with_redis,
)
from skeldir.cli.control import control_state
from skeldir.keys import new_secret, publish_key

app = typer.Typer(help="API keys. The secret is shown once, and stored only as a hash.", no_args_is_help=True)


class Role(StrEnum):
    """What a key may do."""

    PRODUCER = "producer"
    OPERATOR = "operator"
    AUDITOR = "auditor"


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="The tenant's id.")],
    role: Annotated[Role, typer.Option(help="What it may do.")],
    user: Annotated[str | None, typer.Option(help="The only user it may act for.")] = None,
    days: Annotated[
        float | None, typer.Option(min=0, max=CENTURY_DAYS, help="It ends by itself after so long.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once."""
    tenant_id, user_id = uuid(tenant, "--tenant"), uuid(user, "--user")
    if tenant_id is None:
        raise CommandError("give --tenant")
    secret, until = new_secret(), None if days is None else datetime.now(UTC) + timedelta(days=days)

    async def publish(redis: Redis, _: Settings) -> str:
        return await publish_key(redis, secret, tenant_id, user_id, role.value, actor=actor(), until=until)

    _show_new(with_redis(publish), secret, tenant_id, user_id, role.value, as_json)


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="The old key's id, as `key list` shows it.")],
    overlap_minutes: Annotated[
        float, typer.Option(min=0, max=CENTURY_MINUTES, help="How long the old key still works.")
    ] = 60,
    as_json: Json = False,
) -> None:
    """Make a new key of the same tenant, user and role; the old one ends after the overlap."""
    secret = new_secret()

    async def publish(redis: Redis, settings: Settings) -> tuple[str, Key]:
        state = await control_state(redis, settings)
        old = next((key for key in state.keys.values() if key.key_id == key_id), None)
        if old is None:
            raise CommandError(f"there is no key {key_id}")
        until = None if old.until_ms is None else datetime.fromtimestamp(old.until_ms / 1000, UTC)
        new_id = await publish_key(redis, secret, old.tenant_id, old.user_id, old.role, actor=actor(), until=until)
        end = datetime.now(UTC) + timedelta(minutes=overlap_minutes)
        event = KeyRevoked(key_id=key_id, reason=f"rotated to {new_id}", actor=actor(), until=end)
        await redis.xadd(CONTROL, {"data": event.model_dump_json()})
        return new_id, old

    new_id, old = with_redis(publish)
    _show_new(new_id, secret, old.tenant_id, old.user_id, old.role, as_json)


def _show_new(key_id: str, secret: str, tenant: UUID, user: UUID | None, role: str, as_json: bool) -> None:
    if as_json:
        about = {"tenant_id": str(tenant), "user_id": str(user) if user else None, "role": role}
        print_json({"key_id": key_id, "key": secret, **about})
        return
    out.print(f"[bold]{key_id}[/bold] {role}\n{secret}\n[dim]it is not shown again[/dim]")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Its id, as `key list` shows it.")],
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "key revoked",
    as_json: Json = False,
) -> None:
    """Refuse a key from now on, on every gateway."""

    async def publish(redis: Redis, settings: Settings) -> None:
        state = await control_state(redis, settings)
        if key_id not in {key.key_id for key in state.keys.values()}:
            raise CommandError(f"there is no key {key_id}")
        event = KeyRevoked(key_id=key_id, reason=reason, actor=actor())
        await redis.xadd(CONTROL, {"data": event.model_dump_json()})

    with_redis(publish)
    if as_json:
        print_json({"key_id": key_id, "status": "revoked"})
    else:
        out.print(f"{key_id} is revoked")


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: Json = False
) -> None:
    """The keys that are valid; their secrets are known to nobody."""
    tenant_id = uuid(tenant, "--tenant")
    state, now_ms = with_redis(control_state), datetime.now(UTC).timestamp() * 1000
    rows = [
        {
            "key_id": key.key_id,
            "role": key.role,
            "tenant_id": str(key.tenant_id),
            "user_id": str(key.user_id) if key.user_id else None,
            "created_by": key.actor,
            "created_at": _time(key.since_ms),
            "ends_at": None if key.until_ms is None else _time(key.until_ms),
        }
        for key in state.keys.values()
        if tenant_id in (None, key.tenant_id) and (key.until_ms is None or key.until_ms > now_ms)
    ]
    if as_json:
        print_json(orjson.loads(orjson.dumps(rows)))
        return
    table = table_by("key", "role", "tenant", "user", "by", "since", "until")
    for row in rows:
        table.add_row(*(as_text(value or "") for value in row.values()))
    out.print(table)


def _time(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
