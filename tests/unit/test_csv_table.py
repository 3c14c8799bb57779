"""CSVs: nothing that a spreadsheet would run; shown in a terminal, nothing of one is cut off at 80 columns."""

from __future__ import annotations

from decimal import Decimal
from io import StringIO
from pathlib import Path

from rich.console import Console

from services.ledger.dashboards import cell
from skeldir.csv_table import show

HEADER = "state_type,tenant_id,user_id,state_key,state_value,failure_count,opened_at,updated_at"
ROW = (
    "hourly_shutoff,f3a6719c-9996-4bef-af6e-5fda3fcbff58,7e54f582-3aa3-4211-b703-8112d819fd05,"
    "2026-11-29T03:00:00Z,false,3,2026-11-29T03:45:56Z,2026-11-29T03:46:07Z"
)


def test_eighty_columns_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "03_breaker_shutoff_state.csv"
    file.write_text("\n".join([HEADER, *[ROW] * 10]) + "\n")
    said = StringIO()
    show(file, Console(file=said, width=80))
    lines = said.getvalue().splitlines()
    assert "…" not in said.getvalue()
    assert lines[4].split() == [
        "hourly_shutoff",
        "f3a6719c",
        "7e54f582",
        "03:00:00",
        "false",
        "3",
        "03:45:56",
        "03:46:07",
    ]
    assert "... and 2 more in" in said.getvalue()


def test_what_a_caller_named_is_no_formula() -> None:
    for named in ("=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"):
        assert cell(named) == f"'{named}"
    assert [cell(value) for value in (Decimal("-1.50"), -1, "a=1", "2026-11", None)] == [
        "-1.50",
        "-1",
        "a=1",
        "2026-11",
        "",
    ]
