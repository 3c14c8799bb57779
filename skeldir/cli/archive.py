"""`ledger archive`: months of events out of the database, into files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.table import Table

from services.ledger.archive.archiving import MonthReport, archive
from services.ledger.chain.seal import UnusableKey, read_private
from shared.garbage import collect_less
from skeldir.cli.books import ArchiveDir, archive_dir, as_owner, progress, run
from skeldir.cli.context import CommandError, Json, find_running, load_settings, out, print_json
from skeldir.running import SEAL_KEY


def archive_(
    before: Annotated[str, typer.Option(help="Months before this one, as 2026-08.")],
    archive_folder: ArchiveDir = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write and check the files; nothing leaves the database.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Move whole months of events out of the database into Parquet files, which checks and rebuilds then read."""
    folder = archive_dir(archive_folder)
    if folder is None:
        raise CommandError("give the archive's folder: --archive, or SKELDIR_ARCHIVE_DIR")
    try:
        month = datetime.strptime(before, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise CommandError(f"--before is a month as 2026-08, not {before!r}") from error
    collect_less()
    with progress() as told:
        reports = run(archive(as_owner(), folder, month, key=_seal_key(), keep=keep, progress=told))
    if as_json:
        print_json({"kept": keep, "months": [_as_json(report) for report in reports]})
        return
    if not reports:
        out.print(f"no events of before {before} are left to archive")
        return
    table = Table("month", "events", "files", "bytes", "stay: orders, tasks that have not ended")
    for report in reports:
        counts = (report.events, len(report.files), sum(one.size for one in report.files), report.stay)
        table.add_row(f"{report.month:%Y-%m}", *(f"{count:,}" for count in counts))
    out.print(table)
    if keep:
        out.print("nothing left the database; the files are not recorded")


def _as_json(report: MonthReport) -> dict[str, object]:
    files = [
        {"file": one.file, "partition": one.chain, "events": one.rows, "bytes": one.size, "sha256": one.sha256.hex()}
        for one in report.files
    ]
    return {"month": f"{report.month:%Y-%m}", "events": report.events, "stay": report.stay, "files": files}


def _seal_key() -> Ed25519PrivateKey | None:
    """By which the ledger of these settings, or of what runs here, seals; it seals what is recorded, too."""
    settings = load_settings()
    file = settings.seal_key_file
    if file is None and (found := find_running(settings)) is not None:
        likely = Path(found.data_dir) / SEAL_KEY
        file = likely if likely.exists() else None
    try:
        return None if file is None else read_private(file)
    except (UnusableKey, OSError) as error:
        raise CommandError(str(error)) from error
