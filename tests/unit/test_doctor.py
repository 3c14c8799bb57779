"""What `skeldir doctor` finds, and the runbook that it names for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from skeldir.cli import doctor, findings

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
    text = (ROOT / findings.RUNBOOKS / file).read_text()
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


def test_partitions_that_are_well_are_one_line_and_the_others_have_their_own() -> None:
    late = {"policy_s": 29.0, "oldest_s": 0.0}
    lags = [{**LAG, "partition": 0}, {**LAG, "partition": 1, **late}, {**LAG, "partition": 2, "ledger_s": 31.0}]
    found = [one for lag in lags for one in doctor._readers(lag)]
    assert [(one.check, one.found) for one in findings.summed_up(found)] == [
        ("policy, 3 partitions", "29.0 s behind (partition 1)"),
        ("executor, 3 partitions", "0.1 s behind (partition 0)"),
        ("ledger, 2 partitions", "0.1 s behind (partition 0)"),
        ("held, 3 partitions", "2 decisions, the oldest for 4.0 s (partition 0)"),
        ("partition 2 ledger", "31.0 s behind"),
    ]
    assert findings.summed_up(found[:4]) == found[:4], "of one partition there is nothing to sum up"


def test_an_answer_that_took_long_is_no_wrong_clock() -> None:
    assert doctor.skew_of(10_000, 10_900, 12_000) == 0, "within the two seconds that it took"
    assert doctor.skew_of(10_000, 9_300, 10_001) == 700
    assert doctor.skew_of(10_000, 10_701, 10_001) == 700
