"""The short form of `make chaos`: the whole deck of faults once, on real processes and servers, under load."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.chaos.__main__ import show
from tests.chaos.run import run
from tests.conftest import NewFolder

SEED = 15
SECONDS = 18.0
EVERY_S = 0.65


@pytest.mark.timeout(300)
def test_nothing_lost_nothing_double_nothing_overshot(new_folder: NewFolder) -> None:
    report = run(SEED, SECONDS, EVERY_S, new_folder())
    show(report, Console(width=160))
    assert report.held, [line for line in report.lines if line.findings]
    assert report.facts["acknowledged"] > 30 and report.facts["attempts"] > 10, report.facts
    assert {fault.kind for fault, _ in report.faults} == {"kill", "pause", "link", "mood", "switch", "grow"}
