"""`docs/reference/tables.md`: the tables and views of a migrated database, as its catalogue describes them.

What a table is for stands here; what a column is for, behind the column in its migration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg

from services.ledger.migrate import MIGRATIONS
from tests.reference.markdown import table

HEAD = """\
# Tables

What `skeldir migrate` makes. Row-level security is forced on all of it: a reader sees the rows of the settings
`app.current_tenant_id` and `app.current_user_id` of its transaction, and a view shows what its reader may see of the
tables below it. Columns named `*_stamp` or `*_version` order the writes of a group of columns: the highest wins. Money
is in cents, exact; times are those of the events. Over HTTP: [reads](../reads.md). `make reference` writes this page.

"""

MEANINGS: dict[str, dict[str, str]] = {
    "The books": {
        "events": "Every event as it stood in the log. Appended to, never changed; a partition a month.",
        "event_archives": "Files that months of events went into, each with the part of a chain that it holds.",
        "event_chains": "The end of each hash chain over the events: the next row follows on `head`.",
        "event_seals": "Ends of chains, signed.",
        "checkpoints": "Up to where each stream is in the books.",
        "skipped_entries": "Entries that could not be read or projected. They are in the dead-letter stream too.",
        "dead_letters": "What was put into the dead-letter stream.",
        "data_keys": "Keys of prompts and answers, one a tenant and user, wrapped by a master key that is elsewhere.",
        "read_audit": "Who looked at more than one user. Appended to, never changed.",
    },
    "Calls and money": {
        "llm_api_calls": "One row a task; `id` is the task's id, a function of tenant, endpoint and request id.",
        "llm_budget_reservations": "One row a reservation: reserved, then settled, released, or held as perhaps spent.",
        "llm_monthly_costs": "What each user's month cost, by model.",
        "llm_monthly_budget_state": "A user's calendar month: spent and reserved, against its cap.",
        "tenant_budget_state": "The same for a tenant as a whole, where it has a limit, by hour and month.",
        "investigations": "One row a successful `investigation`.",
        "budget_optimization_jobs": "One row a successful `budget_optimization`.",
    },
    "What is stopped and limited": {
        "llm_breaker_state": "Each user's circuit breaker.",
        "llm_hourly_shutoff_state": "A user's clock hour: its balance, and whether it is shut off.",
        "kill_switches": "Kill switches that were ever engaged, and whether they are.",
        "tenant_limits": "Limits that operators set, by tenant and user.",
        "tenant_quotas": "Quotas that operators set. One that is taken back stays, and is not in force.",
        "quota_use": "What each quota has counted in its newest window.",
        "task_bounds": "What a single task of a type may take.",
        "downgrades": "Which calls go to a cheaper model near the end of a budget.",
        "api_keys": "API keys by the SHA-256 of their secret.",
    },
    "Dashboards": {
        "dashboard_monthly_spend": "What each month cost, and how many calls were answered or attempted.",
        "dashboard_cache_hit_rate": "Hits over answered calls, by endpoint.",
        "dashboard_breaker_shutoff_state": "Breakers and hourly shutoffs as they stand.",
        "dashboard_provider_cost_latency": "Cost, and latency of attempted calls, by provider, model and status.",
        "dashboard_uncertain_attempts": "Attempts whose end nobody knows, with the money that is held for them.",
    },
    "Sums that dashboards read": {
        "call_sums_of_users": "Calls by hour and by month, of each user.",
        "call_sums_of_tenants": "The same of each tenant.",
        "call_sums_of_all": "The same of all tenants, by month. Rows that differ in `left_by` alone belong together.",
        "call_quarters_of_tenants": "A tenant's quarters of an hour, by how calls ended.",
        "call_quarters_of_all": "The quarters of an hour of all tenants, by how calls ended.",
        "call_hours_of_tenants": "A tenant's hours, for the release before; it goes.",
        "call_hours_of_all": "The hours of all tenants, for the release before; it goes.",
        "call_totals_of_tenants": "What each tenant's month came to.",
        "call_latencies_of_users": "Histograms of latency by month: how many attempted calls were in each bucket.",
        "call_latencies_of_tenants": "The same of each tenant.",
        "call_latencies_of_all": "The same of all tenants.",
        "calls_under_way": "Calls that have not ended: few rows, that go again.",
    },
    "Webhooks": {
        "webhook_messages": "Messages that wait to be sent, or were given up.",
        "webhook_gaps": "What was not queued, since too much waited.",
        "webhook_ends": "Webhooks that answered 410: no more, until they are set again.",
    },
}

# Of the tables that people write queries on, where the migrations say nothing.
COLUMNS = {
    "llm_api_calls": {
        "endpoint": "`app.tasks.llm.<task_type>`",
        "request_id": "the caller's own id",
        "provider": "the one that the call was meant for, also where none was made",
        "model": "the one that was asked last",
        "requested_model": "the one that was asked for, where another was taken",
        "created_at": "when the task was accepted",
        "max_cost_cents": "the caller's own bound",
        "budget_reservation_cents": "reserved by policy: the worst case",
        "budget_settled_cents": "what policy settled; null: not settled",
        "attempts": "calls that were begun",
        "status": "`pending`, `success`, `blocked` or `failed`",
        "block_reason": "as `provider_kill_switch`, `monthly_cap_exceeded`",
        "failure_reason": "as `provider_timeout`, `attempt_uncertain`",
        "was_cached": "answered from the cache",
        "output_text": "the answer; encrypted where there is a master key",
        "latency_ms": "of the provider's call; 0 where none was made",
        "provider_attempted": "whether a call was made, or may have been",
        "cost_cents": "what it cost, as far as is known",
    },
    "llm_budget_reservations": {
        "api_call_id": "the task",
        "reserved_cents": "the worst case",
        "state": "`reserved`, `settled`, `released` or `held`",
        "settled_cents": "the true cost; the whole reservation where it is held",
        "overrun_cents": "by how much the true cost passed the reservation",
    },
    "llm_hourly_shutoff_state": {
        "is_shutoff": "whether it holds, until `disabled_until`",
        "reason": "an operator's, or `hourly_threshold_exceeded`",
        "total_cost_cents": "spent in this hour",
        "reserved_cents": "reserved, and not settled",
    },
    "call_quarters_of_tenants": {"latency_ms": "of the attempted ones, together"},
    "call_quarters_of_all": {
        "latency_ms": "of the attempted ones, together",
        "left_by": "0: the sum; else the transaction that left this to be added",
    },
    "calls_under_way": {"hour": "for the release before; it goes"},
}

_QUERY = """
SELECT c.relname AS of, c.relkind = 'v' AS is_view, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS needed, a.attgenerated = 's' AS computed, pg_get_expr(d.adbin, d.adrelid) AS given,
       EXISTS (
         SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)
       ) AS key
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
  AND c.relname <> 'alembic_version'
ORDER BY c.relname, a.attnum
"""
_POLICIES = "SELECT tablename AS of, roles, cmd FROM pg_policies WHERE schemaname = 'public' ORDER BY policyname"


def page(database_url: str) -> str:
    """The whole page, of this database. Raises ValueError for a table of which nobody has said what it is for."""
    with psycopg.connect(database_url, row_factory=psycopg.rows.dict_row) as connection:
        columns = connection.execute(_QUERY).fetchall()
        policies = connection.execute(_POLICIES).fetchall()
    there, described = {one["of"] for one in columns}, {name for group in MEANINGS.values() for name in group}
    if there != described:
        raise ValueError(f"tests/reference/tables.py and the database differ in {sorted(there ^ described)}")
    said = said_in_migrations() | {(of, name): text for of, own in COLUMNS.items() for name, text in own.items()}
    if unknown := said.keys() - {(one["of"], one["name"]) for one in columns}:
        raise ValueError(f"no such columns: {sorted(unknown)}")
    parts = [HEAD]
    for group, tables in MEANINGS.items():
        parts.append(f"## {group}\n\n")
        for name, meaning in tables.items():
            parts.append(f"### {name}\n{meaning}{_readers(name, policies)}\n\n")
            own = [one for one in columns if one["of"] == name]
            parts.append(_view(own) if own[0]["is_view"] else _table(own, said))
    return "".join(parts).rstrip("\n") + "\n"


def _readers(name: str, policies: list[dict[str, Any]]) -> str:
    roles = dict.fromkeys(
        f"`{role}`"
        for one in policies
        if one["of"] == name and one["cmd"] in ("SELECT", "ALL")
        for role in one["roles"]
    )
    return f" Rows are seen by {', '.join(roles)}." if roles else ""


def _table(columns: list[dict[str, Any]], said: dict[tuple[str, str], str]) -> str:
    rows = ((f"`{one['name']}`", one["type"], _may_be(one), said.get((one["of"], one["name"]), "")) for one in columns)
    return table(("column", "type", "", "meaning"), rows)


def _may_be(column: dict[str, Any]) -> str:
    if column["key"]:
        return "key"
    if column["computed"]:
        return "computed"
    if column["given"] is not None and column["given"].startswith("nextval("):
        return "counted"
    if column["given"] is not None:
        return f"default `{column['given'].partition('::')[0]}`"
    return "" if column["needed"] else "may be null"


def _view(columns: list[dict[str, Any]]) -> str:
    return table(("column", "type"), ((f"`{one['name']}`", one["type"]) for one in columns))


def said_in_migrations() -> dict[tuple[str, str], str]:
    """(table, column) -> the comment behind the column."""
    return dict(_comments())


def _comments() -> Iterator[tuple[tuple[str, str], str]]:
    for path in sorted((MIGRATIONS / "sql").glob("*/*.sql")):
        if path.name == "down.sql":
            continue
        for found in re.finditer(
            r"^(?:CREATE TABLE|ALTER TABLE) (\w+)\b(.*?);$", path.read_text(), re.MULTILINE | re.DOTALL
        ):
            for line in found[2].splitlines():
                if column := re.match(r"\s+(?:ADD COLUMN )?(\w+) .*?\s--\s(.+)$", line):
                    yield (found[1], column[1]), column[2]
