"""`tail`: live events, readable."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated
from uuid import UUID

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.text import Text

from shared.events.control import entry_ms
from shared.events.envelope import at
from shared.partitions import CONTROL, Partition, partition_of
from shared.settings import Settings
from shared.streams.partition_count import look
from shared.streams.read import BLOCK_MS, Entry
from shared.streams.wide_reader import WideReader
from skeldir.cli import event_line
from skeldir.cli.context import CommandError, Json, err, out, print_json, uuid, with_redis

PAGE = 200
RETRY_S = 1.0
COLOURS = {
    "task.submitted": "cyan",
    "task.allowed": "blue",
    "task.blocked": "yellow",
    "task.succeeded": "green",
    "task.failed": "red",
    "breaker.changed": "magenta",
    "provider_breaker.changed": "magenta",
    "limit.neared": "yellow",
    "shutoff.tripped": "red",
    "kill_switch.engaged": "bold red",
    "kill_switch.released": "bold green",
}


def tail(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's events.")] = None,
    request: Annotated[str | None, typer.Option(help="Only the events of this request id.")] = None,
    as_json: Json = False,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with what is still in the log.")] = False,
) -> None:
    """Live events, one a line, until Ctrl-C; with --json one document a line, without prompts."""
    tenant_id = uuid(tenant, "--tenant")
    if request == "":
        raise CommandError("--request is a request id, not ''")

    async def follow(redis: Redis, settings: Settings) -> None:
        partitions = await look(redis, settings)
        numbers = [partition_of(tenant_id, partitions)] if tenant_id else range(partitions)
        streams = [stream for number in numbers for stream in _streams(Partition(number))] + [CONTROL]
        after = dict.fromkeys(streams, "0-0" if from_start else "$")
        if not from_start:
            for stream in streams:
                newest = await redis.xrevrange(stream, count=1)
                after[stream] = newest[0][0].decode() if newest else "0-0"
        async with WideReader(redis) as reader:
            while True:
                try:
                    pages = await reader.read(after, PAGE, BLOCK_MS)
                except RedisError as error:  # it may come back, and what happened meanwhile is shown then
                    err.print(f"the log cannot be reached: {error}", markup=False)
                    await asyncio.sleep(RETRY_S)
                    continue
                for stream, entry in in_time(pages):
                    _print(stream, entry, tenant_id, request, as_json)
                after |= {stream: page[-1][0].decode() for stream, page in pages.items()}

    with suppress(asyncio.CancelledError, KeyboardInterrupt):
        with_redis(follow)


def in_time(pages: Mapping[str, Sequence[Entry]]) -> list[tuple[str, Entry]]:
    """What was read at once, as it happened; within a millisecond a partition's tasks before its decisions, and those
    before its outcomes, as the streams were named."""
    found = [(stream, entry) for stream, page in pages.items() for entry in page]
    return sorted(found, key=lambda one: entry_ms(one[1][0]))


def _streams(partition: Partition) -> tuple[str, str, str]:
    return partition.tasks, partition.decisions, partition.outcomes


def _print(stream: str, entry: Entry, tenant_id: UUID | None, request: str | None, as_json: bool) -> None:
    event = event_line.read(entry)
    if not event_line.concerns(event, tenant_id, request):
        return
    if as_json:
        print_json({"stream": stream, "entry_id": entry[0].decode(), "event": event_line.without_prompt(event)})
        return
    kind = event_line.plain(event.get("type"))
    moment = event_line.plain(event.get("time") or at(entry_ms(entry[0])).isoformat())
    line = Text.assemble(
        (f"{moment[:23]:23} ", "dim"),
        (f"{kind:22} ", COLOURS.get(kind, "white")),
        " ".join(filter(None, (event_line.where(event), event_line.said(event)))),
    )
    out.print(line, soft_wrap=True)
