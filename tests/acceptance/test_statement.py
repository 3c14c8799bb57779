"""`skeldir statement`: a month's costs as the ledger's rows have them, and clear words for bad input."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from tests.stack import Stack


def test_a_statement_is_the_sum_of_the_ledgers_rows(stack: Stack, tmp_path: Path) -> None:
    tenant, user, month = str(uuid4()), str(uuid4()), f"{datetime.now(UTC):%Y-%m}"
    key = stack.key(tenant, user)
    asked = ({"model": "stub:a", "simulated_cost_cents": 0.000000001}, {"model": "stub:b", "simulated_cost_cents": 2})
    rows = [stack.call(stack.run(key=key, prompt=prompt), tenant, user) for prompt in asked]
    said = json.loads(
        stack.cli("statement", "--tenant", tenant, "--month", month, "--out", str(tmp_path), "--json").stdout
    )
    assert Decimal(said["cost_cents"]) == sum(row["cost_cents"] for row in rows) == Decimal("2.000000001")
    assert (said["calls"], said["held_cents"], [one["model"] for one in said["lines"]]) == (
        2,
        "0",
        ["stub:b", "stub:a"],
    )
    table, page = map(Path, said["files"])
    assert sum(Decimal(row["cost_cents"]) for row in csv.DictReader(table.open())) == Decimal("2.000000001")
    assert "for 2 calls" in page.read_text()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (("--tenant", "x", "--month", "2026-11"), "--tenant is a UUID"),
        (("--tenant", str(uuid4()), "--month", "2026-13"), "--month is a year and a month"),
    ],
)
def test_bad_input_is_one_line(stack: Stack, given: tuple[str, ...], problem: str) -> None:
    ended = stack.cli("statement", *given, check=False)
    assert ended.returncode == 2 and problem in ended.stderr and len(ended.stderr.splitlines()) == 1
