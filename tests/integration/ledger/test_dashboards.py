"""The four dashboards: their columns, what they count, their files, and the export."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.ledger import books, sessions
from services.ledger.dashboards import BY_NAME, DASHBOARDS, DashboardProblem, export
from skeldir.embedded import EmbeddedPostgres
from skeldir.embedded.postgres import BIN
from tests.integration.ledger.conftest import FULL, Bench

SQL = Path(__file__).parents[3] / "docs" / "dashboards" / "sql"
GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana" / "skeldir.json"
# Word for word from the acceptance list; the last three are ours.
HEADERS = {
    "01_monthly_spend.csv": "tenant_id,user_id,month,total_cost_cents,total_calls",
    "02_cache_hit_rate.csv": "endpoint,total_calls,cache_hits,cache_hit_rate_pct",
    "03_breaker_shutoff_state.csv": (
        "state_type,tenant_id,user_id,state_key,state_value,failure_count,opened_at,updated_at"
    ),
    "04_provider_cost_latency_distribution.csv": (
        "provider,model,status,call_count,total_cost_cents,min_latency_ms,avg_latency_ms,max_latency_ms,"
        "p50_latency_ms,p95_latency_ms,p99_latency_ms"
    ),
}


@pytest.fixture
async def filled(bench: Bench, as_ledger: Any) -> Bench:
    """A bench whose history is in the books."""
    history = bench.history(FULL)
    await books.commit(as_ledger, {}, {}, history.records() + history.control_records())
    return bench


async def test_the_export_has_the_promised_headers_and_rows(
    filled: Bench, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    paths = await export(postgres.url("app_user"), filled.tenant, filled.users, tmp_path / "new")
    assert {path.name: path.read_text().splitlines()[0] for path in paths} == HEADERS
    assert all(len(path.read_text().splitlines()) > 1 for path in paths)
    spend = list(csv.DictReader((tmp_path / "new" / "01_monthly_spend.csv").open()))
    assert {row["user_id"] for row in spend} == {str(user) for user in filled.users}
    assert not [
        row for row in spend if row["total_cost_cents"].rstrip("0").endswith(".") or "E" in row["total_cost_cents"]
    ]
    states = list(csv.DictReader((tmp_path / "new" / "03_breaker_shutoff_state.csv").open()))
    assert {row["state_type"] for row in states} == {"breaker", "hourly_shutoff"}


async def test_an_empty_output_fails(filled: Bench, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with pytest.raises(DashboardProblem, match="no row"):
        await export(postgres.url("app_user"), filled.tenant, [uuid4()], tmp_path)
    with pytest.raises(DashboardProblem, match="no row"):
        await export(postgres.url("app_user"), uuid4(), filled.users, tmp_path)
    assert not (tmp_path / DASHBOARDS[0].file).exists()


async def test_another_header_fails(
    filled: Bench, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(DASHBOARDS[0]), "columns", ("tenant_id",), raising=False)
    with pytest.raises(DashboardProblem, match="the header is"):
        await export(postgres.url("app_user"), filled.tenant, filled.users, tmp_path)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.name)
async def test_psql_runs_the_file_and_prints_the_export(
    dashboard: Any, filled: Bench, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    await export(postgres.url("app_user"), filled.tenant, filled.users, tmp_path)
    users = ",".join(str(user) for user in filled.users)
    file = SQL / dashboard.file.replace(".csv", ".sql")
    base = [str(BIN / "psql"), "-X", "-q", "--csv", "-v", "ON_ERROR_STOP=1", "-f", str(file)]
    by_variables = run([*base, "-v", f"tenant={filled.tenant}", "-v", f"users={users}", postgres.url("app_user")], {})
    options = f"-c app.current_tenant_id={filled.tenant} -c app.current_user_id={users} -c timezone=Pacific/Auckland"
    by_settings = run([*base, postgres.url("app_user")], {"PGOPTIONS": options})
    exported = (tmp_path / dashboard.file).read_text()
    assert by_variables == exported
    assert by_settings == exported  # whatever time zone the session has
    assert run([*base, postgres.url("app_user")], {}).splitlines() == exported.splitlines()[:1]


async def test_the_panels_of_grafana_read_what_there_is(filled: Bench, as_user: Any) -> None:
    panels = json.loads(GRAFANA.read_text())["panels"]
    asked = [target["rawSql"] for panel in panels for target in panel["targets"] if "rawSql" in target]
    assert len(asked) == 5
    async with sessions.reading(as_user, None, filled.tenant, filled.users):
        assert any([await as_user.fetch(one) for one in asked])


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def ask(connection: Any, name: str, tenant: UUID, user: UUID) -> list[dict[str, Any]]:
    async with sessions.reading(connection, None, tenant, [user]):
        return [dict(row) for row in await connection.fetch(BY_NAME[name].sql)]


async def test_refused_calls_have_no_part_in_hit_rate_and_latency(bench: Bench, as_ledger: Any, as_user: Any) -> None:
    ops = [("submit", 0, 5), ("succeed", 0, 8), ("submit", 0, 5), ("succeed", 0, 20), ("submit", 0, 5), ("stop", 0, 0)]
    ops += [("submit", 0, 5), ("cached", 0, 0), ("submit", 0, 5), ("fail", 0, 0)]
    history = bench.history(ops)
    await books.commit(as_ledger, {}, {}, history.records())
    (rate,) = await ask(as_user, "cache_hit_rate", bench.tenant, bench.users[0])
    assert (rate["total_calls"], rate["cache_hits"], rate["cache_hit_rate_pct"]) == (3, 1, Decimal("33.33"))
    by_status = {
        row["status"]: row for row in await ask(as_user, "provider_cost_latency", bench.tenant, bench.users[0])
    }
    success = by_status["success"]
    assert (success["call_count"], success["min_latency_ms"], success["max_latency_ms"]) == (3, 8, 20)
    assert (success["avg_latency_ms"], success["total_cost_cents"]) == (14, 7)
    assert by_status["blocked"]["provider"] == "stub"
    assert by_status["blocked"]["avg_latency_ms"] is None
    (spend,) = await ask(as_user, "monthly_spend", bench.tenant, bench.users[0])
    assert (spend["total_cost_cents"], spend["total_calls"]) == (7, 4)
