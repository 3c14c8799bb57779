"""`key create|revoke|list`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import orjson
import typer
from redis.asyncio import Redis
from rich.table import Table

from shared.events.control import KeyRevoked
from shared.partitions import CONTROL
from shared.settings import Settings
from skeldir.cli.context import CommandError, Json, actor, out, print_json, uuid, with_redis
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
    as_json: Json = False,
) -> None:
    """Make a key and show it, once."""
    tenant_id, user_id = uuid(tenant, "--tenant"), uuid(user, "--user")
    if tenant_id is None:
        raise CommandError("give --tenant")
    secret = new_secret()

    async def publish(redis: Redis, _: Settings) -> str:
        return await publish_key(redis, secret, tenant_id, user_id, role.value, actor=actor())

    key_id = with_redis(publish)
    if as_json:
        print_json({"key_id": key_id, "key": secret, "tenant_id": tenant, "user_id": user, "role": role.value})
        return
    out.print(f"[bold]{key_id}[/bold] {role.value}\n{secret}\n[dim]it is not shown again[/dim]")


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
    state = with_redis(control_state)
    rows = [
        {
            "key_id": key.key_id,
            "role": key.role,
            "tenant_id": str(key.tenant_id),
            "user_id": str(key.user_id) if key.user_id else None,
            "created_by": key.actor,
            "created_at": datetime.fromtimestamp(key.since_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        for key in state.keys.values()
        if tenant_id in (None, key.tenant_id)
    ]
    if as_json:
        print_json(orjson.loads(orjson.dumps(rows)))
        return
    table = Table("key", "role", "tenant", "user", "by", "since")
    for row in rows:
        table.add_row(*(str(value or "") for value in row.values()))
    out.print(table)
