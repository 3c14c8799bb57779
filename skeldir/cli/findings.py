"""What `doctor` finds, and how a person sees it: partitions that are well are one line, one that is not has its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from skeldir.cli.context import as_text

RUNBOOKS = "docs/runbooks/"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Where it is not well: what to do, and the page that says how, step by step.

    `of`: what it is that was looked at in each partition. `seconds`: how late it is there.
    """

    check: str
    ok: bool
    found: str
    advice: str = ""
    runbook: str = ""
    of: str = ""
    seconds: float = 0.0


def judged(
    check: str, ok: bool, found: str, advice: str, runbook: str, *, of: str = "", seconds: float = 0.0
) -> Finding:
    """A finding; where all is well there is nothing to do."""
    if ok:
        return Finding(check, ok, found, of=of, seconds=seconds)
    return Finding(check, ok, found, advice, f"{RUNBOOKS}{runbook}", of, seconds)


def summed_up(findings: Sequence[Finding]) -> list[Finding]:
    """With one finding for what is well in several partitions, in the place of the first: the latest of them."""
    kinds: dict[str, list[Finding]] = {}
    for one in findings:
        if one.of and one.ok:
            kinds.setdefault(one.of, []).append(one)
    shown = []
    for one in findings:
        kind = kinds.get(one.of, []) if one.ok else []
        if len(kind) < 2:
            shown.append(one)
        elif one is kind[0]:
            latest = max(kind, key=lambda other: other.seconds)
            where = f"{latest.found} ({latest.check.removesuffix(one.of).strip()})"
            found = where if latest.seconds else ", ".join(sorted({other.found for other in kind}))
            shown.append(Finding(f"{one.of}, {len(kind)} partitions", True, found))
    return shown


def table(findings: Iterable[Finding]) -> Table:
    """For a terminal."""
    rows = Table("", "check", "found")
    rows.add_column("what to do", overflow="fold")  # a page's name that is cut is of no use
    for one in findings:
        todo = as_text(one.advice) + (f"\n[bold]{one.runbook}[/bold]" if one.runbook else "")
        rows.add_row("[green]ok[/green]" if one.ok else "[red]!![/red]", one.check, as_text(one.found), todo)
    return rows
