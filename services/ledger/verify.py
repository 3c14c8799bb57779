"""Do the books balance? Each check looks for what must not be; it reads as the ledger, and changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from services.ledger import reservation_sums, rollups, same_rows
from services.ledger.projections import balances
from services.ledger.projections.rows import Kind, Patch, Table, Tables, fold
from services.ledger.sessions import Connection, write_as_ledger
from shared.events.decisions import TaskAllowed
from shared.events.registry import EVENTS
from shared.money import to_cents

TIMEOUT_S = 600.0
MAX_EXAMPLES = 5
PAGE = 2000

Found = tuple[str, str]
"""What it is about, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Check:
    """A name, what it claims of sound books, and the search for what contradicts it."""

    name: str
    claim: str
    find: Callable[[Connection], Awaitable[list[Found]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """What contradicts a check."""

    check: str
    subject: str
    problem: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """How many findings each check has, and some of them."""

    checks: dict[str, int]
    findings: Sequence[Finding]

    @property
    def sound(self) -> bool:
        return not any(self.checks.values())


async def verify(database_url: str, checks: Sequence[Check] | None = None) -> VerifyReport:
    """Make the checks (default: all) on one snapshot of the books. The URL is the ledger's, or the owner's."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    counts: dict[str, int] = {}
    findings: list[Finding] = []
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await write_as_ledger(connection)
            for check in CHECKS if checks is None else checks:
                found = await check.find(connection)
                counts[check.name] = len(found)
                findings += [Finding(check.name, subject, problem) for subject, problem in found[:MAX_EXAMPLES]]
    finally:
        await connection.close()
    return VerifyReport(counts, findings)


async def _ask(sql: str, connection: Connection) -> list[Found]:
    return [(str(row[0]), str(row[1])) for row in await connection.fetch(sql)]


async def _caps_held(connection: Connection) -> list[Found]:
    """At each allow that reserved money: what was spent and reserved then, against the cap of then."""
    found: list[Found] = []
    cursor = await connection.cursor("SELECT body FROM events WHERE type = 'task.allowed' ORDER BY seq")
    while page := await cursor.fetch(PAGE):
        for row in page:
            data = EVENTS.decode(row["body"]).data
            assert isinstance(data, TaskAllowed), "the query asks for no other"
            for one in data.balances if data.reservation.amount else ():
                if one.cap is not None and one.spent + one.reserved > one.cap:
                    committed, cap = to_cents(one.spent + one.reserved), to_cents(one.cap)
                    found.append((str(data.task.task_id), f"allowed at {committed} of {cap} cents a {one.window}"))
    return found


async def _balances_are_the_fold(connection: Connection) -> list[Found]:
    """Fold the balances of all events again, in memory (one row an account and window), and compare."""
    folded: Tables = {}
    cursor = await connection.cursor(
        "SELECT body FROM events WHERE type IN ('task.allowed', 'reservation.ended') ORDER BY seq"
    )
    while page := await cursor.fetch(PAGE):
        fold((patch for row in page for patch in balances.project(EVENTS.decode(row["body"]))), folded)
    found: list[Found] = []
    for table in balances.TABLES:
        rows = folded.get(table.name, {})
        stored = {tuple(row[name] for name in table.key): row for row in await _stored(connection, table)}
        for key in rows.keys() | stored.keys():
            problem = _difference(table, rows.get(key), stored.get(key))
            if problem:
                found.append((f"{table.name} {' '.join(map(str, key))}", problem))
    return found


async def _stored(connection: Connection, table: Table) -> Any:
    return await connection.fetch(f"SELECT * FROM {table.name} WHERE balance_version IS NOT NULL")


def _difference(table: Table, patch: Patch | None, stored: Any) -> str | None:
    if patch is None or stored is None:
        return "no row in the events" if patch is None else "no row in the table"
    register = next(one for one in table.registers if one.order == "balance_version")
    for name, kind in {"balance_version": Kind.BIGINT, **register.columns}.items():
        value = patch.row.get(name)
        wanted = to_cents(value) if kind is Kind.MONEY and value is not None else value
        if wanted != stored[name]:
            return f"{name} is {stored[name]}, and {wanted} by the events"
    return None


_ONE_END = """
SELECT subject, count(*) || ' ends: ' || string_agg(type, ', ' ORDER BY seq) FROM events
WHERE type IN ('task.succeeded', 'task.blocked', 'task.failed')
GROUP BY tenant_id, subject HAVING count(*) > 1
"""
# Only attempts up to where the decisions are in the books: those of another stream may be ahead for a moment.
_ALLOWED_BEFORE = """
SELECT a.subject, 'attempt ' || a.id || ' has no earlier allow' FROM events AS a
JOIN checkpoints AS c ON c.stream = replace(a.stream, ':outcomes', ':decisions')
  AND split_part(a.entry_id, '-', 1)::bigint <= split_part(c.entry_id, '-', 1)::bigint
WHERE a.type = 'attempt.started' AND NOT EXISTS (
  SELECT FROM events AS d
  WHERE d.id = substring(a.body FROM '"decision_id":"([0-9a-f-]{36})"')::uuid
    AND d.type = 'task.allowed' AND d.subject = a.subject
    AND split_part(d.entry_id, '-', 1)::bigint <= split_part(a.entry_id, '-', 1)::bigint)
"""
_COST = """
SELECT concat_ws(' ', tenant_id, user_id, month),
  format('cost of %s cents, %s spent', trim_scale(c.total_cost_cents), coalesce(b.spent_cents, 0))
FROM llm_monthly_costs AS c FULL JOIN llm_monthly_budget_state AS b USING (tenant_id, user_id, month)
WHERE coalesce(c.total_cost_cents, 0) <> coalesce(b.spent_cents, 0)
"""

CHECKS = (
    Check("one_end", "No task ends twice.", partial(_ask, _ONE_END)),
    Check("allowed_before_attempt", "Each attempt has an allow from before it.", partial(_ask, _ALLOWED_BEFORE)),
    Check("caps_held", "No allow reserved more than a cap left.", _caps_held),
    Check("balances_are_the_fold", "The balances are the fold of the events.", _balances_are_the_fold),
    Check(
        "reserved_is_held",
        "Reserved is the sum of live and held reservations.",
        partial(_ask, reservation_sums.reserved()),
    ),
    Check("spent_is_settled", "Spent is the sum of what was settled.", partial(_ask, reservation_sums.spent())),
    Check("cost_is_spent", "The monthly cost is what was spent.", partial(_ask, _COST)),
    Check("rollups_are_the_calls", "The dashboards' rollups are the sums of the calls.", rollups.differences),
)

SAME_ROWS = Check("tables_are_the_fold", "Every row of every table is what the events give.", same_rows.differences)
"""Reads all events once more, by task: made with the history."""
