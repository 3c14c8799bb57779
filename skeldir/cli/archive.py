"""`ledger archive` and `ledger unarchive`: months of events out of the database into files, and back."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.table import Table

from services.ledger.archive.archiving import MonthReport, archive, check_folder
from services.ledger.archive.retention import archive_due, due_before, keep_archiving
from services.ledger.archive.unarchiving import unarchive
from services.ledger.chain.seal import UnusableKey, read_private
from shared.garbage import collect_less
from shared.logs import configure_logs
from shared.service import run_alone
from shared.settings import Settings
from skeldir.cli.books import ArchiveDir, PublicKeys, archive_dir, as_owner, progress, public_keys, run, tell
from skeldir.cli.context import CENTURY_DAYS, CommandError, Json, find_running, load_settings, out, print_json
from skeldir.running import SEAL_KEY


def archive_(
    before: Annotated[
        str | None, typer.Option(help="Months before this one, as 2026-08. Default: by SKELDIR_ARCHIVE_AFTER_MONTHS.")
    ] = None,
    archive_folder: ArchiveDir = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write and check the files; nothing leaves the database.")
    ] = False,
    every_hours: Annotated[
        float | None,
        typer.Option(min=0.001, max=24 * CENTURY_DAYS, help="Do it now and every so many hours, until it is stopped."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Move whole months of events out of the database into Parquet files, which checks and rebuilds then read."""
    settings = load_settings()
    folder = archive_dir(archive_folder)
    if folder is None:
        raise CommandError("give the archive's folder: --archive, or SKELDIR_ARCHIVE_DIR")
    if before is None and settings.archive_after_months is None:
        raise CommandError("give --before, or set SKELDIR_ARCHIVE_AFTER_MONTHS")
    if every_hours is not None:
        if before is not None or keep or as_json:
            raise CommandError("--every-hours goes by SKELDIR_ARCHIVE_AFTER_MONTHS: without --before, --keep, --json")
        _keep_archiving(settings, folder, every_hours)
        return
    month = (
        run(due_before(as_owner(), settings.archive_after_months or 1))
        if before is None
        else _month(before, "--before")
    )
    collect_less()
    with progress() as told:
        reports = run(archive(as_owner(), folder, month, key=_seal_key(), keep=keep, progress=told))
    if as_json:
        print_json({"kept": keep, "months": [_as_json(report) for report in reports]})
        return
    if not reports:
        out.print(f"no events of before {month:%Y-%m} are left to archive")
        return
    table = Table("month", "events", "files", "bytes", "stay: orders, tasks that have not ended")
    for report in reports:
        counts = (report.events, len(report.files), sum(one.size for one in report.files), report.stay)
        table.add_row(f"{report.month:%Y-%m}", *(f"{count:,}" for count in counts))
    out.print(table)
    if keep:
        out.print("nothing left the database; the files are not recorded")


def unarchive_(
    month: Annotated[str, typer.Argument(help="As 2025-03.")],
    archive_folder: ArchiveDir = None,
    public_key: PublicKeys = None,
    as_json: Json = False,
) -> None:
    """Put an archived month of events back into the database, each file and row checked; its files stay."""
    of, keys = _month(month, "MONTH"), public_keys(public_key)
    collect_less()
    with progress() as told:
        files = run(unarchive(as_owner(), archive_dir(archive_folder), of, keys=keys, progress=told))
    events, names = sum(one.rows for one in files), [one.file for one in files]
    if as_json:
        print_json({"month": month, "events": events, "files": names})
        return
    out.print(f"{events:,} events of {month} are in the database again; nobody reads these files any more:")
    for name in names:
        out.print(name, soft_wrap=True)
    if load_settings().archive_after_months is not None:
        out.print(
            "what archives by SKELDIR_ARCHIVE_AFTER_MONTHS takes it out again, if it is old enough", soft_wrap=True
        )


def _keep_archiving(settings: Settings, folder: Path, every_hours: float) -> None:
    url, key, months = as_owner(), _seal_key(), settings.archive_after_months
    assert months is not None, "checked before"
    tell(lambda: check_folder(folder))
    configure_logs(settings.log_level)
    collect_less()
    archiving = partial(keep_archiving, lambda: archive_due(url, folder, months, key=key), every_hours * 3600)
    asyncio.run(run_alone("archive", archiving, settings))


def _month(given: str, name: str) -> date:
    try:
        return datetime.strptime(given, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise CommandError(f"{name} is a month as 2026-08, not {given!r}") from error


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
