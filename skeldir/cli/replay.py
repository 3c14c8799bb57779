"""`replay`: recorded traffic, decided again under other limits."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from shared.events.control import to_ms
from shared.garbage import collect_less
from shared.money import to_cents
from shared.settings import Settings
from skeldir.cli.books import ArchiveDir, archive_dir, as_owner, progress, tell
from skeldir.cli.context import CommandError, Json, load_settings, out, print_json
from skeldir.cli.master_key import master_keys
from skeldir.replay.reading import END_OF_TIME_MS, Question, ReplayReport
from skeldir.replay.reading import replay as replay_
from skeldir.replay.scenario import InvalidLimits, Scenario, parse, recorded
from skeldir.replay.tally import MONEY, Sums

_READERS: dict[str, Any] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}


def replay(
    limits: Annotated[Path, typer.Option(help="YAML, JSON or TOML: `settings`, `limits`, `orders` (docs/replay.md).")],
    since: Annotated[str | None, typer.Option(help="The limits hold from then on: ISO 8601, UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to then.")] = None,
    archive: ArchiveDir = None,
    as_json: Json = False,
) -> None:
    """Decide recorded traffic again under other limits: what would change, and what it would have cost."""
    settings = load_settings()
    since_ms, until_ms = moment(since, "--since") or 0, moment(until, "--until") or END_OF_TIME_MS
    if since_ms >= until_ms:
        raise CommandError(f"--since is before --until: {since} is not before {until}")
    question = Question(
        _scenario(limits, settings),
        recorded(settings),
        since_ms,
        until_ms,
        master_keys(settings),
        archive_dir(archive),
    )
    url = as_owner()
    collect_less()
    with progress("steps") as told:
        report = tell(lambda: replay_(url, question, told))
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report)


def moment(text: str | None, name: str) -> int | None:
    """An ISO 8601 time in milliseconds since the epoch; without a zone it is UTC. Raises CommandError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{name} is a time as 2026-11-23T16:00:00Z, not {text!r}") from error
    return to_ms(found if found.tzinfo else found.replace(tzinfo=UTC))


def _scenario(file: Path, settings: Settings) -> Scenario:
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise CommandError(f"--limits is a file {', '.join(_READERS)}, not {file.name!r}")
    try:
        return parse(read(file.read_text()), settings)
    except InvalidLimits as error:
        raise CommandError(f"{file.name}: {error}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CommandError(f"{file.name} cannot be read: {error}") from error


def _as_json(report: ReplayReport) -> dict[str, Any]:
    tally = report.tally
    return {
        "decisions": tally.decisions,
        "changed": sum(sums.decisions for sums in tally.changed.values()),
        "tenants": [
            {
                "tenant_id": tenant_id,
                **{name: row[name] for name in ("decisions", "allowed_before", "allowed_after")},
                **{f"{name}_cents": f"{to_cents(row[name]):f}" for name in MONEY},
            }
            for tenant_id, row in sorted(tally.tenants().items())
        ],
        "changes": [
            {**kind._asdict(), "decisions": sums.decisions, **_cents(sums)}
            for kind, sums in sorted(tally.changed.items())
        ],
        "outside": dict(tally.outside),
        "unjudged": tally.unjudged,
        "waiting": tally.waiting,
        "steps": tally.steps,
        "seconds": round(report.seconds, 3),
    }


def _cents(sums: Sums) -> dict[str, str]:
    return {f"{name}_cents": f"{to_cents(getattr(sums, name)):f}" for name in MONEY}


def _print(report: ReplayReport) -> None:
    tally = report.tally
    heads = ("tenant", "decisions", "allowed then", "now", "cents then", "now, known", "now, estimated")
    table = Table(*heads, title="What it comes to")
    for tenant_id, row in sorted(tally.tenants().items()):
        counts = (row["decisions"], row["allowed_before"], row["allowed_after"])
        money = (to_cents(row[name]) for name in ("recorded", "replayed", "estimated"))
        table.add_row(str(tenant_id), *map(str, counts), *(f"{one:f}" for one in money))
    out.print(table)
    if tally.changed:
        changes = Table("tenant", "then", "now", "decisions", "cents then", "now, known", "now, estimated")
        for kind, sums in sorted(tally.changed.items()):
            money = (to_cents(one) for one in (sums.recorded, sums.replayed, sums.estimated))
            cells = (str(kind.tenant_id), kind.before, kind.after, str(sums.decisions))
            changes.add_row(*cells, *(f"{one:f}" for one in money))
        out.print(changes)
    else:
        out.print("nothing would have changed")
    for reason, count in tally.outside.most_common():
        out.print(f"{count:,} ends were made outside of the rules, and stay: {reason}", soft_wrap=True, markup=False)
    if any(sums.estimated for sums in tally.kinds.values()):
        out.print("Estimated: the calls were never made; each counts as its whole reservation, so at most.")
    if tally.waiting or tally.unjudged:
        out.print(f"{tally.waiting:,} tasks still wait; {tally.unjudged:,} steps begin before the books do")
    rate = tally.steps / report.seconds if report.seconds else 0.0
    out.print(
        f"{tally.decisions:,} decisions of {report.partitions} partitions in {report.seconds:,.1f} s "
        f"({rate:,.0f} steps a second, {report.processes} processes)",
        soft_wrap=True,
    )
