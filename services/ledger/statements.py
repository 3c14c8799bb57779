"""What a tenant's month cost: by user and model, exact, with what is still held for attempts whose cost nobody knows.

It is read from `llm_monthly_costs`, which books a cost in the month whose cap paid for it; so the sum is what the caps
were held against, and `skeldir ledger verify` holds both against the events.
"""

from __future__ import annotations

import csv
import json
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from html import escape
from io import StringIO
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger.dashboards import cell
from services.ledger.sessions import AUDITOR, COMMAND_TIMEOUT_S, Connection, reading

HEADER = ("tenant_id", "month", "user_id", "model", "calls", "cost_cents")
_COSTS = """
SELECT user_id, model_breakdown::text AS models, total_calls, total_cost_cents FROM llm_monthly_costs
WHERE month = $1 ORDER BY user_id
"""
_HELD = """
SELECT coalesce(trim_scale(sum(reserved_cents)), 0) FROM llm_monthly_budget_state WHERE month = $1
"""


class DoesNotAddUp(Exception):
    """The books contradict themselves: a user's models do not sum to the user's total."""


@dataclass(frozen=True, slots=True)
class Line:
    """A user's calls of one model (`provider:model`), as far as they were answered or attempted. Cents are exact."""

    user_id: UUID
    model: str
    calls: int
    cost_cents: Decimal


@dataclass(frozen=True, slots=True)
class Statement:
    """A tenant's month (its first day)."""

    tenant_id: UUID
    month: date
    lines: tuple[Line, ...]
    held_cents: Decimal
    """Reserved in the month and not ended when the statement was made; not part of its cost."""

    @property
    def calls(self) -> int:
        """Of all lines."""
        return sum(line.calls for line in self.lines)

    @property
    def cost_cents(self) -> Decimal:
        """Of all lines."""
        return sum((line.cost_cents for line in self.lines), Decimal(0))


async def statement(database_url: str, tenant_id: UUID, month: date) -> Statement:
    """The statement of the tenant's month, with the eyes of its auditor. Raises DoesNotAddUp."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with reading(connection, AUDITOR, tenant_id):
            return await read(connection, tenant_id, month)
    finally:
        await connection.close()


async def read(connection: Connection, tenant_id: UUID, month: date) -> Statement:
    """The same, with the eyes that the connection has."""
    lines: list[Line] = []
    for row in await connection.fetch(_COSTS, month):
        of_user = lines_of(row["user_id"], row["models"])
        calls, cost = sum(one.calls for one in of_user), sum((one.cost_cents for one in of_user), Decimal(0))
        if (calls, cost) != (row["total_calls"], row["total_cost_cents"]):
            said = f"{row['total_calls']} calls and {row['total_cost_cents']} cents"
            raise DoesNotAddUp(f"user {row['user_id']}: the books say {said}, their models {calls} and {cost}")
        lines += of_user
    return Statement(tenant_id, month, tuple(lines), await connection.fetchval(_HELD, month))


def lines_of(user_id: UUID, models: str) -> list[Line]:
    """The lines in a user's breakdown by model, the dearest first."""
    exact = json.loads(models, parse_float=str, parse_int=str)  # the amounts are exact: not through floating point
    found = [Line(user_id, model, int(one["calls"]), Decimal(one["cost_cents"])) for model, one in exact.items()]
    return sorted(found, key=lambda line: (-line.cost_cents, line.model))


def as_record(found: Statement) -> dict[str, Any]:
    """For JSON; amounts as text, exact."""
    lines = [
        {"user_id": str(one.user_id), "model": one.model, "calls": one.calls, "cost_cents": cell(one.cost_cents)}
        for one in found.lines
    ]
    sums = {"calls": found.calls, "cost_cents": cell(found.cost_cents), "held_cents": cell(found.held_cents)}
    return {"tenant_id": str(found.tenant_id), "month": f"{found.month:%Y-%m}", **sums, "lines": lines}


def as_csv(found: Statement) -> str:
    """A row a line; their sum is the statement's."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for line in found.lines:
        start = (found.tenant_id, f"{found.month:%Y-%m}", line.user_id, line.model)
        writer.writerow([*map(cell, start), line.calls, cell(line.cost_cents)])
    return text.getvalue()


def as_page(found: Statement, made_at: datetime) -> str:
    """A page to print; it needs no network."""
    by_model: dict[str, tuple[int, Decimal]] = {}
    by_user: dict[str, tuple[int, Decimal]] = {}
    for line in found.lines:
        for sums, key in ((by_model, line.model), (by_user, str(line.user_id))):
            calls, cost = sums.get(key, (0, Decimal(0)))
            sums[key] = (calls + line.calls, cost + line.cost_cents)
    held = f"<p>Held for calls that have not ended, and not part of the sum: {cell(found.held_cents)} cents.</p>"
    return _PAGE.format(
        month=f"{found.month:%B %Y}",
        tenant=found.tenant_id,
        made=made_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        calls=found.calls,
        cents=cell(found.cost_cents),
        dollars=cell(found.cost_cents / 100),
        held=held if found.held_cents else "",
        style=_STYLE,
        models=_table("Model", ((name, *sums) for name, sums in by_model.items())),
        users=_table("User", ((name, *sums) for name, sums in by_user.items())),
    )


def _table(what: str, rows: Iterable[tuple[str, int, Decimal]]) -> str:
    ordered = sorted(rows, key=lambda row: (-row[2], row[0]))
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{calls}</td><td>{cell(cost)}</td></tr>" for name, calls, cost in ordered
    )
    head = f'<tr><th scope="col">{what}</th><th scope="col">Calls</th><th scope="col">Cents</th></tr>'
    return f"<table><caption>By {what.lower()}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
.sum { font-size: 1.6rem; margin: .2rem 0; }
.quiet { color: #555; }
table { border-collapse: collapse; width: 100%; margin: 1.5rem 0; break-inside: auto; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid #ddd; }
td:nth-child(n+2), th:nth-child(n+2) { text-align: right; font-variant-numeric: tabular-nums; }
tr { break-inside: avoid; }
@media print { body { margin: 0; max-width: none; } }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Statement {month}, tenant {tenant}</title>
<style>{style}</style></head><body>
<h1>Statement, {month}</h1>
<p class="quiet">Tenant {tenant} · made {made}</p>
<p class="sum"><strong>{dollars} US dollars</strong> for {calls} calls</p>
<p class="quiet">{cents} cents, to the last unit of the books.</p>
{held}{models}{users}
</body></html>
"""
# Of the page when a server hands it out: its own style, and nothing else.
PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
