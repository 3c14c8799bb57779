"""The rollups of calls: their tables, and whether they are what the calls give.

PostgreSQL keeps them: triggers on `llm_api_calls` (migrations 0009, 0014, 0019) add what a row is and take away what it
was, in the statement that writes it. So a late result, or an end that comes before its beginning, moves them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.ledger.sessions import Connection

Found = tuple[str, str]

_CALLS = """
SELECT tenant_id, user_id, date_bin('15 minutes', created_at, 'epoch') AS quarter, left(provider, 150) AS provider,
       left(model, 150) AS model, task_type, status, left(coalesce(block_reason, failure_reason, ''), 150) AS reason,
       was_cached, provider_attempted AND status <> 'pending' AS attempted, latency_ms, cost_cents
FROM llm_api_calls
"""
_ENDED = (
    "SELECT calls.*, span, date_trunc(span, quarter, 'UTC') AS span_start "
    f"FROM ({_CALLS}) AS calls, unnest(ARRAY['hour', 'month']) AS span WHERE status <> 'pending'"
)
_ATTEMPTED = (
    "SELECT calls.*, date_trunc('month', quarter, 'UTC') AS month, latency_floor(latency_ms) AS latency_from_ms "
    f"FROM ({_CALLS}) AS calls WHERE attempted"
)
_SUMS = {
    "calls": "count(*)",
    "cached": "count(*) FILTER (WHERE was_cached)",
    "attempted": "count(*) FILTER (WHERE attempted)",
    "latency_ms": "coalesce(sum(latency_ms) FILTER (WHERE attempted), 0)",
    "cost_cents": "sum(cost_cents)",
}
_WHAT = ("provider", "model", "task_type", "status", "reason")
_BY_WHAT = ("span", "span_start", *_WHAT)
_BY_LATENCY = ("month", "provider", "model", "status", "latency_from_ms")
# What adds others up: users' sums are checked by the calls, tenants' months by the users', and so on.
_MONTHS = "SELECT span_start AS month, sums.* FROM call_sums_of_tenants AS sums WHERE span = 'month'"
_ENDS = {end: f"coalesce(sum(calls) FILTER (WHERE status = '{end}'), 0)" for end in ("success", "blocked", "failed")}


@dataclass(frozen=True, slots=True)
class Rollup:
    """A table: by what it groups, what it sums and how, and the rows that it is of.

    `in_parts`: a key may have several rows, whose sum counts; a sum of nothing is no row.
    """

    name: str
    key: tuple[str, ...]
    sums: Mapping[str, str]
    source: str
    in_parts: bool = False

    @property
    def by_calls(self) -> str:
        """A query for what the table should hold."""
        sums = ", ".join(f"{how} AS {name}" for name, how in self.sums.items())
        return f"SELECT {', '.join(self.key)}, {sums} FROM ({self.source}) AS calls GROUP BY {', '.join(self.key)}"

    @property
    def differences(self) -> str:
        """A query for the groups that are not what the calls give."""
        key = ", ".join(self.key)
        differs = " OR ".join(f"old.{name} IS DISTINCT FROM new.{name}" for name in self.sums)
        told = ", ".join(f"'{name}', old.{name}, 'by the calls', new.{name}" for name in self.sums)
        kept = self.name
        if self.in_parts:
            sums, some = _added(self.sums), " OR ".join(f"sum({name}) <> 0" for name in self.sums)
            sums_of = ", ".join(f"{how} AS {name}" for name, how in sums.items())
            kept = f"(SELECT {key}, {sums_of} FROM {self.name} GROUP BY {key} HAVING {some})"
        return (
            f"SELECT concat_ws(' ', '{self.name}', {key}), concat_ws(' ', {told}) FROM {kept} AS old "
            f"FULL JOIN ({self.by_calls}) AS new USING ({key}) WHERE {differs}"
        )


def _added(names: Iterable[str]) -> dict[str, str]:
    """Sums of sums."""
    return {name: f"sum({name})" for name in names}


# Each after those that it is summed from.
ROLLUPS = (
    Rollup(
        "calls_under_way",
        ("tenant_id", "user_id", "quarter", "provider", "model", "task_type"),
        {name: _SUMS[name] for name in ("calls", "cost_cents")},
        f"SELECT * FROM ({_CALLS}) AS calls WHERE status = 'pending'",
    ),
    Rollup("call_sums_of_users", ("tenant_id", "user_id", *_BY_WHAT), _SUMS, _ENDED),
    Rollup("call_latencies_of_users", ("tenant_id", "user_id", *_BY_LATENCY), {"calls": "count(*)"}, _ATTEMPTED),
    Rollup(
        "call_sums_of_tenants",
        ("tenant_id", *_BY_WHAT),
        _added(_SUMS),
        "SELECT * FROM call_sums_of_users WHERE span = 'month'",
    ),
    Rollup(
        "call_quarters_of_tenants",
        ("tenant_id", "quarter", "status"),
        _SUMS,
        f"SELECT * FROM ({_CALLS}) AS calls WHERE status <> 'pending'",
    ),
    Rollup(
        "call_latencies_of_tenants",
        ("tenant_id", *_BY_LATENCY),
        _added(("calls",)),
        "SELECT * FROM call_latencies_of_users",
    ),
    Rollup("call_totals_of_tenants", ("tenant_id", "month"), {**_ENDS, **_added(("cost_cents",))}, _MONTHS),
    Rollup(
        "call_quarters_of_all",
        ("quarter", "status"),
        _added(_SUMS),
        "SELECT * FROM call_quarters_of_tenants",
        in_parts=True,
    ),
    Rollup("call_sums_of_all", ("month", *_WHAT), _added(_SUMS), _MONTHS, in_parts=True),
    Rollup(
        "call_latencies_of_all",
        _BY_LATENCY,
        _added(("calls",)),
        "SELECT * FROM call_latencies_of_tenants",
        in_parts=True,
    ),
)


async def sum_again(connection: Connection) -> None:
    """Make every rollup the sums of the calls, within the caller's transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock(sums_of_all_lock())")
    for one in ROLLUPS:
        await connection.execute(f"DELETE FROM {one.name}")
        await connection.execute(f"INSERT INTO {one.name} ({', '.join((*one.key, *one.sums))}) {one.by_calls}")


async def differences(connection: Connection) -> list[Found]:
    """Each group of a rollup that is not what the calls give."""
    return [(str(row[0]), str(row[1])) for one in ROLLUPS for row in await connection.fetch(one.differences)]
