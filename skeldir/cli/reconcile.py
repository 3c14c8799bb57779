"""`reconcile`: attempts whose end nobody knows, and what the provider's own account says of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from decimal import Decimal
from typing import Annotated, Any, TypeVar
from uuid import UUID

import asyncpg
import typer

from services.ledger.uncertain import settled_at, uncertain
from shared.money import from_cents, to_cents
from skeldir.cli.context import CommandError, Json, as_text, database_url, load_settings, out, print_json, table_by
from skeldir.cli.control import append

T = TypeVar("T")

WAIT_S = 10.0
LOOK_S = 0.1


def reconcile(
    attempt: Annotated[str | None, typer.Argument(help="A request, task or decision id; without it: the list.")] = None,
    cost_cents: Annotated[str | None, typer.Option(help="What the provider charged; 0: nothing was spent.")] = None,
    reason: Annotated[str | None, typer.Option(help="How you know; it is recorded.")] = None,
    as_json: Json = False,
) -> None:
    """List uncertain attempts, or settle one by what the provider's own account says."""
    url = database_url(load_settings(), "admin_database_url")
    if attempt is None:
        if cost_cents is not None or reason is not None:
            raise CommandError("say which attempt: skeldir reconcile ATTEMPT --cost-cents N --reason R")
        _list(_uncertain(url), as_json)
        return
    if cost_cents is None or reason is None:
        raise CommandError("give --cost-cents (what the provider charged, or 0) and --reason (how you know)")
    found = _uncertain(url, attempt)
    if not found:
        raise CommandError(f"no uncertain attempt of {attempt!r}: `skeldir reconcile` lists them")
    if len(found) > 1:
        ids = ", ".join(str(one["decision_id"]) for one in found)
        raise CommandError(f"{attempt!r} has {len(found)} uncertain attempts; name one by its decision id: {ids}")
    held = found[0]
    order = {"type": "attempt.reconciled", "cost_cents": cost_cents, "reason": reason}
    about = {"tenant_id": str(held["tenant_id"]), "decision_id": str(held["decision_id"])}
    entry_id = append({**order, **about})
    settled = _settled_at(url, held["decision_id"])
    if settled not in (None, to_cents(from_cents(cost_cents))):
        said = f"{held['request_id']!r} was settled at {settled:f} cents meanwhile"
        raise CommandError(f"{said}: this order ({entry_id}) changed nothing")
    if as_json:
        print_json({**held, "entry_id": entry_id, "cost_cents": cost_cents, "settled": settled is not None})
    elif settled is not None:
        out.print(f"{as_text(held['request_id'])} is settled at {settled:f} cents")
    else:
        out.print(f"published as {entry_id}; policy or the ledger has not taken it yet: see `skeldir doctor`")


def _uncertain(url: str, name: str | None = None) -> list[dict[str, Any]]:
    return _read(uncertain(url, name))


def _settled_at(url: str, decision_id: UUID) -> Decimal | None:
    """The cents at which it is settled; None where policy and the ledger do not take the order within a while."""
    deadline = time.monotonic() + WAIT_S
    while (found := _read(settled_at(url, decision_id))) is None and time.monotonic() <= deadline:
        time.sleep(LOOK_S)
    return found


def _read(question: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(question)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the books cannot be read: {error}") from error


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("no attempt is uncertain")
        return
    table = table_by("request", "tenant", "user", "model", "ended as", "held, cents", "since")
    for row in rows:
        model = f"{row['provider']}:{row['model']}"
        shown = (
            row["request_id"],
            row["tenant_id"],
            row["user_id"],
            model,
            row["failure_reason"],
            row["reserved_cents"],
        )
        table.add_row(*(as_text(str(value)) for value in shown), row["held_since"])
    out.print(table)
