"""The four dashboards: their views, and the export as CSV, which fails where a header differs or an output is empty."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger.sessions import COMMAND_TIMEOUT_S, reading


class DashboardProblem(Exception):
    """A dashboard does not show what it should; the text says which, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard: its name, CSV file, columns and order, and the key (column to type) by which its pages are cut."""

    name: str
    file: str
    columns: tuple[str, ...]
    order: str
    key: Mapping[str, str]

    @property
    def sql(self) -> str:
        return f"SELECT {', '.join(self.columns)} FROM dashboard_{self.name} ORDER BY {self.order}"


DASHBOARDS = (
    Dashboard(
        "monthly_spend",
        "01_monthly_spend.csv",
        ("tenant_id", "user_id", "month", "total_cost_cents", "total_calls"),
        "month, tenant_id, user_id",
        {"tenant_id": "uuid", "user_id": "uuid", "month": "date"},
    ),
    Dashboard(
        "cache_hit_rate",
        "02_cache_hit_rate.csv",
        ("endpoint", "total_calls", "cache_hits", "cache_hit_rate_pct"),
        "endpoint",
        {"endpoint": "text"},
    ),
    Dashboard(
        "breaker_shutoff_state",
        "03_breaker_shutoff_state.csv",
        ("state_type", "tenant_id", "user_id", "state_key", "state_value", "failure_count", "opened_at", "updated_at"),
        "state_type, tenant_id, user_id, state_key",
        {"tenant_id": "uuid", "user_id": "uuid", "state_type": "text", "state_key": "text"},
    ),
    Dashboard(
        "provider_cost_latency",
        "04_provider_cost_latency_distribution.csv",
        (
            "provider",
            "model",
            "status",
            "call_count",
            "total_cost_cents",
            "min_latency_ms",
            "avg_latency_ms",
            "max_latency_ms",
            "p50_latency_ms",
            "p95_latency_ms",
            "p99_latency_ms",
        ),
        "provider, model, status",
        {"provider": "text", "model": "text", "status": "text"},
    ),
)
# Not among those that are exported, which must have a row: on a good day this one has none.
UNCERTAIN_ATTEMPTS = Dashboard(
    "uncertain_attempts",
    "05_uncertain_attempts.csv",
    (
        "tenant_id",
        "user_id",
        "request_id",
        "endpoint",
        "task_id",
        "decision_id",
        "provider",
        "model",
        "status",
        "failure_reason",
        "reserved_cents",
        "held_since",
    ),
    "held_since, decision_id",
    {"held_since": "text", "decision_id": "uuid"},
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
BY_NAME = {dashboard.name: dashboard for dashboard in (*DASHBOARDS, UNCERTAIN_ATTEMPTS)}


async def export(database_url: str, tenant_id: UUID, user_ids: Sequence[UUID], out: Path) -> list[Path]:
    """Write the four CSVs for these users of the tenant into `out`; where they are.

    Raises DashboardProblem when a view's header is not the promised one, or an output has no row.
    """
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=COMMAND_TIMEOUT_S)
    try:
        async with reading(connection, None, tenant_id, user_ids):
            tables = [await _rows(connection, dashboard) for dashboard in DASHBOARDS]
    finally:
        await connection.close()
    return await asyncio.to_thread(_write, out, tables)


def _write(out: Path, tables: Sequence[list[Any]]) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for dashboard, rows in zip(DASHBOARDS, tables, strict=True):
        path = out / dashboard.file
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(dashboard.columns)
            writer.writerows([[cell(value) for value in row] for row in rows])
        paths.append(path)
    return paths


def cell(value: Any) -> str:
    """A value as the CSV has it: amounts without trailing zeros, nothing for NULL. A text that spreadsheets would take
    for a formula has an apostrophe before it: callers choose request ids and models, and others open the file."""
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


async def _rows(connection: Any, dashboard: Dashboard) -> list[Any]:
    query = await connection.prepare(f"SELECT * FROM dashboard_{dashboard.name}")
    header = tuple(attribute.name for attribute in query.get_attributes())
    if header != dashboard.columns:
        raise DashboardProblem(f"{dashboard.name}: the header is {','.join(header)}, not {','.join(dashboard.columns)}")
    rows: list[Any] = await connection.fetch(dashboard.sql)
    if not rows:
        raise DashboardProblem(f"{dashboard.name}: no row for this tenant and these users")
    return rows
