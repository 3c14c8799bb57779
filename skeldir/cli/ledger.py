"""`ledger rebuild`, `ledger verify` and what is done with keys. What is done with the archive is in `archive.py`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from services.ledger.audit.chains import ChainReport, verify_chains
from services.ledger.chain.seal import UnusableKey, new_key, public_pem, read_public
from services.ledger.erasure import rewrap
from services.ledger.history.allowed_before import CLOCK_MARGIN_MS
from services.ledger.history.reading import Bounds, HistoryReport, names, verify_history
from services.ledger.rebuild import rebuild
from services.ledger.verify import CHECKS, FILES, SAME_ROWS, VerifyReport, verify
from shared.garbage import collect_less
from skeldir.cli.archive import archive_, unarchive_
from skeldir.cli.books import ArchiveDir, PublicKeys, archive_dir, as_owner, progress, public_keys, run
from skeldir.cli.context import CENTURY_MINUTES, CommandError, Json, load_settings, out, print_json
from skeldir.cli.master_key import master_keys
from skeldir.private_file import write_private

app = typer.Typer(help="The books: rebuild the projections, verify the balances.", no_args_is_help=True)
app.command("archive")(archive_)
app.command("unarchive")(unarchive_)


@app.command("rebuild")
def rebuild_(archive: ArchiveDir = None, as_json: Json = False) -> None:
    """Make the projections again from the events, beside those that are read; what differs is replaced at once."""
    collect_less()
    with progress() as told:
        report = run(rebuild(as_owner(), told, archive=archive_dir(archive)))
    if as_json:
        print_json(asdict(report))
        return
    table = Table("projection", "rows", "were not so")
    for name, count in report.rows.items():
        table.add_row(name, str(count), str(report.changed[name]))
    out.print(table)
    out.print(f"{report.events} events")


@app.command("verify")
def verify_(
    history: Annotated[bool, typer.Option("--history", help="Also check the history: every event, in order.")] = False,
    partial: Annotated[bool, typer.Option(help="The books begin in the middle: their beginning is gone.")] = False,
    stop_bound_ms: Annotated[int, typer.Option(min=0, help="How long after a kill switch a call may start.")] = 0,
    pending_minutes: Annotated[
        float, typer.Option(min=0, max=CENTURY_MINUTES, help="A task pending for longer is a finding.")
    ] = 60.0,
    chain: Annotated[bool, typer.Option(help="Check each event's place in its chain, and the seals.")] = True,
    public_key: PublicKeys = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Keeps in this file how far the chains were checked; another run goes on from there."),
    ] = None,
    archive: ArchiveDir = None,
    as_json: Json = False,
) -> None:
    """Check that the books balance. Exit 1 where they do not."""
    collect_less()
    checks = (*CHECKS, SAME_ROWS) if history else CHECKS
    keys, folder = public_keys(public_key), archive_dir(archive)
    with progress() as told:
        report = run(verify(as_owner(), checks, told, archive=folder, keys=keys))
    checked: HistoryReport | None = None
    chained: ChainReport | None = None
    if chain:
        with progress() as told:
            chained = run(verify_chains(as_owner(), keys, told, resume=resume, archive=folder))
    if history and not report.checks.get(FILES.name):
        stop_ms = stop_bound_ms or load_settings().control_staleness_ms + CLOCK_MARGIN_MS
        bounds = Bounds(whole=not partial, stop_ms=stop_ms, pending_ms=int(pending_minutes * 60_000))
        with progress() as told:
            checked = run(verify_history(as_owner(), bounds, told, archive=folder))
    if as_json:
        print_json(_as_json(report, checked, chained))
    else:
        _print(report, checked)
        if chained is not None:
            _print_chains(chained)
    if not all(one is None or one.sound for one in (report, checked, chained)):
        raise typer.Exit(1)


@app.command("rewrap")
def rewrap_(as_json: Json = False) -> None:
    """Put every data key of the texts under the first master key, so that the others can be taken out of its file."""
    masters = master_keys(load_settings())
    if masters is None:
        raise CommandError("set SKELDIR_MASTER_KEY_FILE or SKELDIR_MASTER_KEY_COMMAND, as the ledger has it")
    count = run(rewrap(as_owner(), masters))
    if as_json:
        print_json({"master_key": masters.current, "rewrapped": count})
    else:
        out.print(f"{count} data keys are now under the master key {masters.current}")


@app.command("seal-key")
def seal_key(
    file: Annotated[Path, typer.Argument(help="The private key (PEM); made where there is none, for its owner only.")],
) -> None:
    """Print the public key that belongs to a key for sealing; SKELDIR_SEAL_KEY_FILE gives it to the ledger."""
    try:
        if not file.exists():
            write_private(file, new_key())
        typer.echo(public_pem(read_public(file)), nl=False)
    except (UnusableKey, OSError) as error:
        raise CommandError(str(error)) from error


def _as_json(report: VerifyReport, history: HistoryReport | None, chain: ChainReport | None) -> dict[str, Any]:
    found = {"sound": report.sound, "checks": report.checks, "findings": [asdict(one) for one in report.findings]}
    if history is not None:
        found = {**found, "sound": found["sound"] and history.sound, "history": asdict(history)}
    if chain is not None:
        broken = [one._asdict() for one in chain.findings]
        found = {**found, "sound": found["sound"] and chain.sound, "chain": {**asdict(chain), "findings": broken}}
    return found


def _print_chains(chain: ChainReport) -> None:
    for one in chain.findings:
        out.print(f"chain: {one.subject}: {one.problem}", soft_wrap=True, markup=False, highlight=False)
    rate = (chain.rows - chain.resumed) / chain.seconds if chain.seconds else 0.0
    before = f", {chain.resumed:,} of them by a run of before" if chain.resumed else ""
    out.print(
        f"{chain.rows:,} events in {chain.chains} chains{before} in {chain.seconds:,.1f} s ({rate:,.0f} a second): "
        f"{chain.broken:,} broken links; {chain.unsealed:,} events behind the last seal, "
        f"{chain.unchecked_seals:,} seals by a key that is not at hand, {chain.unchained:,} events from before",
        soft_wrap=True,
    )


def _print(report: VerifyReport, history: HistoryReport | None) -> None:
    table = Table("check", "claim", "findings")
    for check in (FILES, *CHECKS, SAME_ROWS):
        if check.name in report.checks:
            table.add_row(check.name, check.claim, str(report.checks[check.name]))
    for name, claim in names().items() if history is not None else ():
        table.add_row(name, claim, str(history.checks[name]) if history is not None else "")
    out.print(table)
    for one in report.findings:
        out.print(f"{one.check}: {one.subject}: {one.problem}", soft_wrap=True, markup=False)
    if report.checks.get(FILES.name):
        out.print("the archive is not whole: what needs its events was not checked")
    if history is None:
        return
    for found in history.findings:
        line = f"{found.check}: {found.subject}: expected {found.expected}; found {found.found}"
        out.print(f"{line} ({', '.join(found.entries)})", soft_wrap=True, markup=False, highlight=False)
    rate = history.events / history.seconds if history.seconds else 0.0
    out.print(
        f"{history.events:,} events of {history.partitions} partitions in {history.seconds:,.1f} s "
        f"({rate:,.0f} a second), {history.live:,} tasks under way or uncertain, {history.unjudged:,} steps not judged",
        soft_wrap=True,
    )
