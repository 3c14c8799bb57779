"""`tail`: live events, readable."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from redis.asyncio import Redis
from rich.markup import escape

from shared.partitions import CONTROL, Partition, partition_for
from shared.settings import Settings
from shared.streams.connection import BLOCK_MS
from shared.streams.read import Entry, read_after
from skeldir.cli.context import out, uuid, with_redis

PAGE = 200
COLOURS = {
    "task.submitted": "cyan",
    "task.allowed": "blue",
    "task.blocked": "yellow",
    "task.succeeded": "green",
    "task.failed": "red",
}


def tail(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's events.")] = None,
    request: Annotated[str | None, typer.Option(help="Only the events of this request id.")] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with what is still in the log.")] = False,
) -> None:
    """Live events, one a line, until Ctrl-C."""
    tenant_id = uuid(tenant, "--tenant")

    async def follow(redis: Redis, settings: Settings) -> None:
        numbers = [partition_for(tenant_id, settings.partitions).number] if tenant_id else range(settings.partitions)
        streams = [stream for number in numbers for stream in _streams(Partition(number))] + [CONTROL]
        after = dict.fromkeys(streams, "0-0" if from_start else "$")
        if not from_start:
            for stream in streams:
                newest = await redis.xrevrange(stream, count=1)
                after[stream] = newest[0][0].decode() if newest else "0-0"
        while True:
            for stream, page in (await read_after(redis, after, PAGE, BLOCK_MS)).items():
                for entry in page:
                    _print(stream, entry, tenant_id, request)
                after[stream] = page[-1][0].decode()

    with suppress(asyncio.CancelledError, KeyboardInterrupt):
        with_redis(follow)


def _streams(partition: Partition) -> tuple[str, str, str]:
    return partition.tasks, partition.decisions, partition.outcomes


def _print(stream: str, entry: Entry, tenant_id: UUID | None, request: str | None) -> None:
    try:
        event: dict[str, Any] = orjson.loads(entry[1].get(b"data", b"{}"))
    except orjson.JSONDecodeError:
        event = {"type": "unreadable"}
    data = event.get("data", event)
    task = data.get("task", {}) if isinstance(data, dict) else {}
    if tenant_id is not None and event.get("tenantid") != str(tenant_id):
        return
    if request is not None and task.get("request_id") != request:
        return
    kind = str(event.get("type"))
    said = " ".join(f"{name}={data[name]}" for name in ("reason", "how", "state", "scope", "actor") if data.get(name))
    where = task.get("request_id") or event.get("subject") or ""
    colour = COLOURS.get(kind, "white")
    moment = str(event.get("time") or entry[0].decode())
    out.print(f"[dim]{moment[:23]:23}[/dim] [{colour}]{kind:18}[/{colour}] {escape(str(where))} {escape(said)}")
