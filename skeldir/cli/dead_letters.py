"""`dead-letters list|show|retry|discard`: what could not be processed, and what becomes of it."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import asyncpg
import typer
from redis.asyncio import Redis

from services.ledger import skipped
from shared.partitions import CONTROL, DEAD_LETTERS, INBOX
from shared.settings import Settings
from skeldir.cli import set_aside
from skeldir.cli.context import (
    CommandError,
    Json,
    as_text,
    database_url,
    load_settings,
    out,
    print_json,
    table_by,
    with_redis,
)
from skeldir.cli.control import append

app = typer.Typer(help="What could not be processed, with its origin, its bytes and the reason.", no_args_is_help=True)

Letter = Annotated[str, typer.Argument(help="Its id, as `list` shows it.")]
# Where a person may put an entry back. The inner streams are written by services only: there an order does it.
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
    table = table_by("id", "origin", "reason")
    for row in rows:
        table.add_row(row["id"], as_text(row["origin"]), as_text(row["reason"]))
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
        out.print(f"[bold]{as_text(name)}[/bold] {as_text(value)}")


@app.command()
def retry(letter: Letter, as_json: Json = False) -> None:
    """Put one back where it came from; of an inner stream, with those of the same task that wait behind it."""
    fields = with_redis(lambda redis, _: _letter(redis, letter))
    origin, entry_id = _came_from(letter, fields)
    if origin in DOORS:
        _say(
            as_json,
            letter,
            "retried",
            f"is back as entry {with_redis(lambda redis, _: _put_back(redis, letter, fields))}",
        )
        return
    in_books = _into_the_books(origin, entry_id)
    try:
        said = _order("dead_letter.retried", letter, origin, entry_id)
    except CommandError:
        if in_books is None:
            raise
        with_redis(lambda redis, _: redis.xdel(DEAD_LETTERS, letter))
        said = "policy needs nothing of it"
    _say(as_json, letter, "retried", said + ("" if in_books is None else f"; {in_books}"))


@app.command()
def discard(letter: Letter, as_json: Json = False) -> None:
    """Give one up for good, and take in what waits behind it. The ledger keeps that it was there."""
    fields = with_redis(lambda redis, _: _letter(redis, letter))
    try:
        said = _order("dead_letter.discarded", letter, *_came_from(letter, fields))
    except CommandError as error:  # nobody keeps it: its letter is all there is
        if not with_redis(lambda redis, _: redis.xdel(DEAD_LETTERS, letter)):
            raise CommandError(f"{letter} was retried or discarded meanwhile: nothing was discarded now") from error
        said = "is discarded"
    _say(as_json, letter, "discarded", said)


def _came_from(letter: str, fields: dict[bytes, bytes]) -> tuple[str, str]:
    """Its origin, and its entry there. Raises CommandError for one that no service has written."""
    try:
        return fields[b"origin"].decode(), fields[b"entry_id"].decode()
    except (KeyError, UnicodeDecodeError) as error:
        raise CommandError(f"{letter} does not say where it came from: it can only be discarded") from error


async def _put_back(redis: Redis, letter: str, fields: dict[bytes, bytes]) -> str:
    original = {name.removeprefix(b"field:"): value for name, value in fields.items() if name not in OURS}
    # First back, then away: a crash in between leaves it twice, and a task is recognised by its request id.
    entry_id: bytes = await redis.xadd(fields[b"origin"].decode(), original)
    await redis.xdel(DEAD_LETTERS, letter)
    return entry_id.decode()


def _order(kind: str, letter: str, origin: str, entry_id: str) -> str:
    """Have policy take an entry in again, or give it up. Raises CommandError where it does not keep it."""
    entry = with_redis(lambda redis, _: set_aside.kept(redis, origin, entry_id))
    order = append({"type": kind, "origin": origin, "entry_id": entry_id})

    async def see(redis: Redis, _: Settings) -> str:
        if not await set_aside.carried_out(redis, entry, order):
            return f"ordered as {order}; policy has not taken it in yet: see `skeldir doctor`"
        await set_aside.remove_letters(redis, entry, order)
        if await redis.hget(entry.partition.aside, entry.key) is not None:
            return "could not be taken in, and is set aside again: see the newest dead letters"
        behind = len(entry.behind) - 1
        return f"is dealt with{f', and {behind} behind it' if behind else ''}"

    return with_redis(see)


def _into_the_books(origin: str, entry_id: str) -> str | None:
    """What the ledger makes of an entry that it skipped; None where it has not."""
    try:
        problem = asyncio.run(skipped.retry(database_url(load_settings(), "admin_database_url"), origin, entry_id))
    except LookupError:
        return None
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return f"the books cannot be written: {error}"
    return "the ledger has taken it in" if problem is None else f"the ledger still cannot read it: {problem}"


def _say(as_json: bool, letter: str, status: str, said: str) -> None:
    if as_json:
        print_json({"id": letter, "status": status, "detail": said})
    else:
        out.print(f"{letter} {said}", soft_wrap=True, markup=False)


async def _letter(redis: Redis, letter: str) -> dict[bytes, bytes]:
    if not re.fullmatch(r"[0-9]{1,19}-[0-9]{1,19}", letter):
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
