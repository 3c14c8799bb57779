"""The rollups of calls: their tables, and whether they are what the calls give.

PostgreSQL keeps them: triggers on `llm_api_calls` (migration 0009) add what a row is and take away what it was, in the
statement that writes it. So a late result, or an end that comes before its beginning, moves them too.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.ledger.sessions import Connection

Found = tuple[str, str]

_CALLS = """
SELECT tenant_id, user_id, date_trunc('hour', created_at, 'UTC') AS hour, left(provider, 150) AS provider,
       left(model, 150) AS model, task_type, status, left(coalesce(block_reason, failure_reason, ''), 150) AS reason,
       was_cached, provider_attempted AND status <> 'pending' AS attempted, latency_ms, cost_cents
FROM llm_api_calls
"""
_ENDED = (
    "SELECT calls.*, span, date_trunc(span, hour, 'UTC') AS span_start "
    f"FROM ({_CALLS}) AS calls, unnest(ARRAY['hour', 'month']) AS span WHERE status <> 'pending'"
)
_ATTEMPTED = (
    "SELECT calls.*, date_trunc('month', hour, 'UTC') AS month, latency_floor(latency_ms) AS latency_from_ms "
    f"FROM ({_CALLS}) AS calls WHERE attempted"
)
_SUMS = {
    "calls": "count(*)",
    "cached": "count(*) FILTER (WHERE was_cached)",
    "attempted": "count(*) FILTER (WHERE attempted)",
    "latency_ms": "coalesce(sum(latency_ms) FILTER (WHERE attempted), 0)",
    "cost_cents": "sum(cost_cents)",
}
_BY_WHAT = ("span", "span_start", "provider", "model", "task_type", "status", "reason")
_BY_LATENCY = ("month", "provider", "model", "status", "latency_from_ms")


@dataclass(frozen=True, slots=True)
class Rollup:
    """A table: by what it groups, what it sums, and the rows that it is of."""

    name: str
    key: tuple[str, ...]
    sums: tuple[str, ...]
    source: str

    @property
    def differences(self) -> str:
        """A query for the groups that are not what the calls give."""
        key, by = ", ".join(self.key), ", ".join(map(str, range(1, len(self.key) + 1)))
        wanted = ", ".join(f"{_SUMS[name]} AS {name}" for name in self.sums)
        differs = " OR ".join(f"old.{name} IS DISTINCT FROM new.{name}" for name in self.sums)
        told = ", ".join(f"'{name}', old.{name}, 'by the calls', new.{name}" for name in self.sums)
        return (
            f"SELECT concat_ws(' ', '{self.name}', {key}), concat_ws(' ', {told}) FROM {self.name} AS old "
            f"FULL JOIN (SELECT {key}, {wanted} FROM ({self.source}) AS calls GROUP BY {by}) AS new USING ({key}) "
            f"WHERE {differs}"
        )


ROLLUPS = (
    Rollup(
        "calls_under_way",
        ("tenant_id", "user_id", "hour", "provider", "model", "task_type"),
        ("calls", "cost_cents"),
        f"SELECT * FROM ({_CALLS}) AS calls WHERE status = 'pending'",
    ),
    Rollup("call_sums_of_users", ("tenant_id", "user_id", *_BY_WHAT), tuple(_SUMS), _ENDED),
    Rollup("call_sums_of_tenants", ("tenant_id", *_BY_WHAT), tuple(_SUMS), _ENDED),
    Rollup("call_latencies_of_users", ("tenant_id", "user_id", *_BY_LATENCY), ("calls",), _ATTEMPTED),
    Rollup("call_latencies_of_tenants", ("tenant_id", *_BY_LATENCY), ("calls",), _ATTEMPTED),
)


async def sum_again(connection: Connection) -> None:
    """Make every rollup the sums of the calls, within the caller's transaction."""
    for one in ROLLUPS:
        key, by = ", ".join(one.key), ", ".join(map(str, range(1, len(one.key) + 1)))
        await connection.execute(f"DELETE FROM {one.name}")
        await connection.execute(
            f"INSERT INTO {one.name} ({key}, {', '.join(one.sums)}) "
            f"SELECT {key}, {', '.join(_SUMS[name] for name in one.sums)} FROM ({one.source}) AS calls GROUP BY {by}"
        )


async def differences(connection: Connection) -> list[Found]:
    """Each group of a rollup that is not what the calls give."""
    return [(str(row[0]), str(row[1])) for one in ROLLUPS for row in await connection.fetch(one.differences)]
