"""`python -m tests.chaos --minutes N`, or with `--seed N` for the same schedule of faults again."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tests.chaos.run import Report, run

ARTIFACT = Path("artifacts") / "chaos.json"
EVERY_S = 1.5
SHOWN = 8


def main() -> int:
    """Exit 0 when every line of the audit held."""
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long things break")
    parser.add_argument("--seed", type=int, help="of the faults and the requests")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between two faults, about")
    arguments = parser.parse_args()
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    console.print(f"seed {seed}: again with `python -m tests.chaos --minutes {arguments.minutes:g} --seed {seed}`")
    report = run(seed, arguments.minutes * 60, arguments.every)
    ARTIFACT.parent.mkdir(exist_ok=True)
    ARTIFACT.write_text(report.to_json())
    show(report, console)
    return 0 if report.held else 1


def show(report: Report, console: Console) -> None:
    """The audit as a table, and what did not hold."""
    table = Table("audit", Column("claim", no_wrap=True), "looked at", "found")
    for line in report.lines:
        table.add_row(line.name, line.claim, f"{line.counted:,}", f"{len(line.findings):,}")
    for name, value in report.facts.items():
        console.print(f"{name}: {value}", markup=False, highlight=False)
    console.print(f"{len(report.faults)} faults")
    console.print(table)
    for line in report.lines:
        for finding in line.findings[:SHOWN]:
            console.print(f"[red]{line.name}[/red]: {escape(finding)}")


if __name__ == "__main__":
    sys.exit(main())
