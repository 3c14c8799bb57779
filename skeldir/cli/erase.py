"""`erase`: a user's prompts and answers, so that nobody can read them any more, the archive included."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict
from typing import Annotated
from uuid import UUID

import asyncpg
import typer
from redis.asyncio import Redis

from services.ledger.erasure import Erasure, erasure
from shared.events.control import control_event_id
from shared.partitions import partition_for
from shared.settings import Settings
from shared.streams.partition_count import look
from skeldir.cli.context import CommandError, Json, database_url, load_settings, out, print_json, uuid, with_redis
from skeldir.cli.control import append
from skeldir.erasing import Erased, erase_from_log
from skeldir.growing.growth import is_under_way

WAIT_S = 30.0
LOOK_S = 0.1


def at_terminal() -> bool:
    """Whether there is somebody who can be asked."""
    return sys.stdin.isatty()


def erase(
    tenant: Annotated[str, typer.Option(help="The user's tenant.")],
    user: Annotated[str, typer.Option(help="Whose prompts and answers.")],
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "texts erased",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, at a terminal, whether it is meant.")] = False,
    as_json: Json = False,
) -> None:
    """Make a user's texts unreadable for ever. Money, times and decisions stay. Exit 1 where plain texts are left."""
    tenant_id, user_id = uuid(tenant, "--tenant"), uuid(user, "--user")
    assert tenant_id is not None and user_id is not None, "the options are required"
    url = database_url(load_settings(), "admin_database_url")
    if not yes and at_terminal():
        typer.confirm(f"Nobody can read what user {user_id} asked and was answered ever again. Erase it?", abort=True)
    scope = {"tenant_id": str(tenant_id), "user_id": str(user_id)}
    entry_id = append({"type": "texts.erased", "scope": scope, "reason": reason})
    done = _until_done(url, control_event_id(entry_id), tenant_id, user_id)
    if done is None:
        raise CommandError(f"ordered as {entry_id}, but the ledger did not take it in: see `skeldir doctor`")

    async def in_the_log(redis: Redis, settings: Settings) -> Erased:
        if await is_under_way(redis):
            raise CommandError("the log is being grown, and copies its state: erase again when that is over")
        partition = partition_for(tenant_id, await look(redis, settings))
        return await erase_from_log(redis, partition, tenant_id, user_id)

    removed = with_redis(in_the_log)
    if as_json:
        print_json({"entry_id": entry_id, **scope, **asdict(done), **asdict(removed)})
    else:
        out.print(
            f"{done.keys} data keys destroyed, {removed.results} results emptied, "
            f"{removed.cached_answers} cached answers and {removed.dead_letters} dead letters removed "
            f"[dim](entry {entry_id})[/dim]",
            soft_wrap=True,
        )
        if done.unencrypted:
            out.print(
                f"[red]{done.unencrypted} tasks were recorded without encryption: their texts stay in the books[/red]",
                soft_wrap=True,
            )
        if done.archived:
            out.print(
                f"[red]{done.archived} tasks, of anybody, are in archive files without encryption; whoever must reach "
                "them removes those files (docs/archive.md)[/red]",
                soft_wrap=True,
            )
    if done.unencrypted or done.archived:
        raise typer.Exit(1)


def _until_done(url: str, order: UUID, tenant_id: UUID, user_id: UUID) -> Erasure | None:
    deadline = time.monotonic() + WAIT_S
    try:
        while True:
            found = asyncio.run(erasure(url, order, tenant_id, user_id))
            if found is not None or time.monotonic() > deadline:
                return found
            time.sleep(LOOK_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the books cannot be read: {error}") from error
