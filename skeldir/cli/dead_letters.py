"""`dead-letters list|show|retry|discard`: what could not be processed, and what becomes of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from redis.asyncio import Redis
from rich.markup import escape
from rich.table import Table

from shared.partitions import CONTROL, DEAD_LETTERS, INBOX
from shared.settings import Settings
from skeldir.cli.context import CommandError, Json, out, print_json, with_redis

app = typer.Typer(help="What could not be processed, with its origin, its bytes and the reason.", no_args_is_help=True)

Letter = Annotated[str, typer.Argument(help="Its id, as `list` shows it.")]
# Where a person may put an entry back. The inner streams are written by services only: their tasks come from here too.
DOORS = (INBOX, CONTROL)
OURS = (b"origin", b"entry_id", b"reason")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 100, as_json: Json = False
) -> None:
    """The newest dead letters."""

    async def read(redis: Redis, _: Settings) -> list[dict[str, Any]]:
        return [_row(entry_id, fields) for entry_id, fields in await redis.xrevrange(DEAD_LETTERS, count=limit)]

    rows = with_redis(read)
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("no dead letters")
        return
    table = Table("id", "origin", "reason")
    for row in rows:
        table.add_row(row["id"], row["origin"], escape(row["reason"]))
    out.print(table)


@app.command()
def show(letter: Letter, as_json: Json = False) -> None:
    """One dead letter, with its bytes."""

    async def read(redis: Redis, _: Settings) -> dict[str, Any]:
        fields = await _letter(redis, letter)
        kept = {name.decode(): value.decode(errors="backslashreplace") for name, value in fields.items()}
        return {"id": letter, **kept}

    found = with_redis(read)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        out.print(f"[bold]{name}[/bold] {escape(value)}")


@app.command()
def retry(letter: Letter, as_json: Json = False) -> None:
    """Put one back where it came from."""

    async def put_back(redis: Redis, _: Settings) -> str:
        fields = await _letter(redis, letter)
        origin = fields[b"origin"].decode()
        if origin not in DOORS:
            problem = f"this came from {origin}, which services alone write: submit the task again instead"
            raise CommandError(problem)
        original = {name.removeprefix(b"field:"): value for name, value in fields.items() if name not in OURS}
        # First back, then away: a crash in between leaves it twice, and a task is recognised by its request id.
        entry_id: bytes = await redis.xadd(origin, original)
        await redis.xdel(DEAD_LETTERS, letter)
        return entry_id.decode()

    entry_id = with_redis(put_back)
    if as_json:
        print_json({"id": letter, "status": "retried", "entry_id": entry_id})
    else:
        out.print(f"{letter} is back as entry {entry_id}")


@app.command()
def discard(letter: Letter, as_json: Json = False) -> None:
    """Remove one for good. The ledger keeps that it was there."""

    async def remove(redis: Redis, _: Settings) -> None:
        await _letter(redis, letter)
        await redis.xdel(DEAD_LETTERS, letter)

    with_redis(remove)
    if as_json:
        print_json({"id": letter, "status": "discarded"})
    else:
        out.print(f"{letter} is discarded")


async def _letter(redis: Redis, letter: str) -> dict[bytes, bytes]:
    parts = letter.split("-")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise CommandError(f"an id looks like 1795000000000-0, not {letter!r}")
    found = await redis.xrange(DEAD_LETTERS, min=letter, max=letter)
    if not found:
        raise CommandError(f"there is no dead letter {letter}")
    fields: dict[bytes, bytes] = found[0][1]
    return fields


def _row(entry_id: bytes, fields: dict[bytes, bytes]) -> dict[str, Any]:
    return {
        "id": entry_id.decode(),
        "origin": fields.get(b"origin", b"").decode(errors="replace"),
        "entry_id": fields.get(b"entry_id", b"").decode(errors="replace"),
        "reason": fields.get(b"reason", b"").decode(errors="replace"),
    }
