"""`why`: why a task ended as it did, and what happened to it, in its order."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import orjson
import typer
from rich.markup import escape
from rich.table import Table

from services.ledger import lists, queries
from services.ledger.keys import View
from services.ledger.looking import as_json as jsonable
from services.ledger.sessions import OPERATOR, pool
from services.ledger.why import verdict
from shared.control_state import Key
from skeldir.cli.context import CommandError, Json, actor, database_url, load_settings, out, uuid
from skeldir.cli.event_line import plain, said

MOST_NAMED = 5


def why(
    request: Annotated[str, typer.Argument(help="A request id, a correlation id, or a task's id.")],
    tenant: Annotated[str | None, typer.Option(help="The tenant's id, where several have such a request.")] = None,
    as_json: Json = False,
) -> None:
    """Why a task was blocked, or what became of it: the decision, the limits that it saw, and every event."""
    settings = load_settings()
    url = settings.ledger_database_url or database_url(settings, "ledger_database_url")
    try:
        call, told = asyncio.run(_told(url, request, uuid(tenant, "--tenant")))
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        what_to_do = "SKELDIR_LEDGER_DATABASE_URL is the database in the ledger's role"
        raise CommandError(f"the books cannot be read: {error or type(error).__name__}; {what_to_do}") from error
    found = {"call": call, "verdict": verdict(told.rows), "events": told.rows, "archived": told.archived}
    if as_json:
        typer.echo(orjson.dumps(found, default=jsonable).decode())
    else:
        _show(found)


async def _told(url: str, request: str, tenant: UUID | None) -> tuple[dict[str, Any], queries.Timeline]:
    """The one task that is meant, and its events. Raises CommandError, and the driver's errors."""
    key = Key("skeldir why", tenant or UUID(int=0), None, "operator", None, actor(), 0)
    view = View(key, OPERATOR, tenant, ())  # a look across tenants is written down, as in the console
    async with pool(url, name="skeldir-why", size=1) as books:
        searched = lists.searched(request.removesuffix("*"))
        found = await lists.page(books, view, lists.CALLS, limit=MOST_NAMED, before=None, **searched)
        if not found.rows:
            problem = f"the books know no request {plain(request)!r}"
            raise CommandError(f"{problem}: its id is to be whole, and the ledger may be behind (skeldir doctor)")
        if len(found.rows) > 1:
            names = "; ".join(f"{row['id']} (tenant {row['tenant_id']})" for row in found.rows)
            raise CommandError(f"several tasks are meant: give the id of one, or --tenant: {names}")
        call = found.rows[0]
        return call, await queries.events(books, None, view, call["id"])


def _show(found: dict[str, Any]) -> None:
    call, judged = found["call"], found["verdict"]
    reason = call["block_reason"] or call["failure_reason"]
    became = f"[bold]{escape(call['status'])}[/bold]" + (f" ({escape(plain(reason))})" if reason else "")
    model = escape(plain(f"{call['provider']}:{call['model']}"))
    out.print(f"{escape(plain(call['request_id']))}: {became}, {model}, task {call['id']}", soft_wrap=True)
    if judged is not None:
        out.print(escape(plain(judged["sentence"])), soft_wrap=True)
    for one in (judged or {}).get("limits", []):
        cap = "no cap" if one["cap_cents"] is None else f"{one['cap_cents']} cents"
        out.print(
            f"  {one['scope']}, {one['window']} {one['window_start']}: {one['used_cents']} of {cap}", soft_wrap=True
        )
    table = Table("at", "what", "said")
    start: datetime = found["events"][0]["time"] if found["events"] else call["created_at"]
    for event in found["events"]:
        # A row of the books has no envelope; by this, `data` is known to be a payload.
        named = {**event, "dataschema": ""}
        after_ms = (event["time"] - start).total_seconds() * 1000
        table.add_row(f"+{after_ms:.0f} ms", escape(plain(event["type"])), escape(said(named)))
    out.print(table)
    if found["archived"]:
        months = ", ".join(found["archived"])
        out.print(f"its events of {months} are in the archive: skeldir ledger unarchive brings them back")
