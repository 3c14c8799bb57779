"""What `skeldir doctor` finds, and the runbook that it names for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from skeldir.cli import doctor

ROOT = Path(__file__).resolve().parents[2]
LAG = {"partition": 3, "policy_s": 0.1, "executor_s": 0.1, "ledger_s": 0.1, "in_flight": 2, "oldest_s": 4.0}


def named() -> set[str]:
    """The pages that findings are judged by: the last argument of every call."""
    tree = ast.parse(Path(doctor.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "judged"]
    assert len(calls) > 15
    return {str(getattr(doctor, ast.unparse(call.args[4]))) for call in calls}


@pytest.mark.parametrize("page", sorted(named()))
def test_the_runbook_is_there_and_so_is_its_section(page: str) -> None:
    file, _, section = page.partition("#")
    text = (ROOT / doctor.RUNBOOKS / file).read_text()
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines()}
    assert not section or section in headings


@pytest.mark.parametrize(
    ("late", "check"),
    [("policy_s", "policy"), ("executor_s", "executor"), ("ledger_s", "ledger"), ("oldest_s", "held")],
)
def test_a_reader_that_is_late_is_named(late: str, check: str) -> None:
    assert all(one.ok and not one.runbook for one in doctor._readers(LAG))
    (found,) = [one for one in doctor._readers({**LAG, late: 301.0}) if not one.ok]
    assert (found.check, "301.0 s" in found.found) == (f"partition 3 {check}", True)
    assert found.advice and found.runbook == "docs/runbooks/incidents.md#a-consumer-is-stalled"
