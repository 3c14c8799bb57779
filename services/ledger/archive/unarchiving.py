"""A month of the archive back into the database, as it was. As the owner, in one transaction.

Each file is held against its record, each row against the row before it in its chain. The files stay where they are:
nobody reads them any more, and the month may be archived again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from operator import itemgetter
from pathlib import Path

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger.archive.archiving import connected
from services.ledger.archive.parquet import COLUMNS, ParquetFile, Wanted
from services.ledger.archive.predecessors import Links
from services.ledger.archive.record import Archive, ArchivedFile, ArchiveProblem, find, problems
from services.ledger.processes import Progress
from services.ledger.sessions import Connection, alone, write_as_ledger

_SCHEMA, _TABLE = "rebuilding", "unarchived_events"
_CAME = f"{_SCHEMA}.{_TABLE}"
_NAMES = ", ".join(COLUMNS)


async def unarchive(
    database_url: str,
    folder: Path | None,
    month: date,
    *,
    keys: Mapping[str, Ed25519PublicKey] | None = None,
    progress: Progress | None = None,
) -> list[ArchivedFile]:
    """Put a month's events back into their table, and forget its files; those are returned. The URL is the owner's.

    `keys`: the public keys that seals of the records are held against, by their ids.
    Raises ArchiveProblem, Busy, the driver's errors; the month is then in the archive, as before.
    """
    async with connected(database_url) as connection, alone(connection), connection.transaction():
        await write_as_ledger(connection)
        archive = await find(connection, folder)
        files = sorted((one for one in archive.files if one.month == month), key=lambda one: one.first_seq)
        if not files:
            raise ArchiveProblem(f"no events of {month:%Y-%m} are in the archive")
        await connection.fetchval("SELECT make_event_month($1)", month)
        refusal = f"{month:%Y-%m} stays in the archive"
        for one, problem in problems(replace(archive, files=tuple(files)), keys):
            raise ArchiveProblem(f"{one.file} of the archive {problem}; {refusal}")
        await _read(connection, archive, files, refusal, progress)
        await _put_back(connection, month, sum(one.rows for one in files), refusal)
        await _forget(connection, files)
    return files


async def _read(
    connection: Connection, archive: Archive, files: list[ArchivedFile], refusal: str, progress: Progress | None
) -> None:
    """The files' rows, each checked, into a table of its own."""
    await connection.execute("RESET ROLE")
    await connection.execute(f"DROP TABLE IF EXISTS {_CAME}")
    await connection.execute(f"CREATE UNLOGGED TABLE {_CAME} (LIKE events)")
    await connection.execute(f"GRANT SELECT ON {_CAME} TO skeldir_ledger")
    links, row_of = Links(connection, archive, refusal), itemgetter(*COLUMNS)
    done, total = 0, sum(one.rows for one in files)
    for one in files:
        for page in ParquetFile(archive.path(one)).pages(Wanted()):
            links.follow(one.chain, page)
            await connection.copy_records_to_table(
                _TABLE, schema_name=_SCHEMA, columns=COLUMNS, records=map(row_of, page)
            )
            done += len(page)
            if progress is not None:
                progress(done, total)
    await write_as_ledger(connection)
    await links.check_beginnings()


async def _put_back(connection: Connection, month: date, events: int, refusal: str) -> None:
    try:
        said = await connection.execute(f"INSERT INTO events ({_NAMES}) SELECT {_NAMES} FROM {_CAME} ORDER BY seq")
    except asyncpg.UniqueViolationError as error:
        what = f"an event of {month:%Y-%m} is in the database, too"
        raise ArchiveProblem(f"{what}: see `skeldir ledger verify`; {refusal}") from error
    if (came := int(said.rpartition(" ")[2])) != events:
        raise ArchiveProblem(f"{came} events are in the files, and {events} are recorded; {refusal}")


async def _forget(connection: Connection, files: list[ArchivedFile]) -> None:
    """No record is ever changed, but for this: by the owner, while no check or rebuild counts on it."""
    await connection.execute("RESET ROLE")
    await connection.execute(f"DROP TABLE {_CAME}")
    await connection.execute("ALTER TABLE event_archives DISABLE TRIGGER append_only")
    await connection.execute("DELETE FROM event_archives WHERE file = ANY ($1::text[])", [one.file for one in files])
    await connection.execute("ALTER TABLE event_archives ENABLE TRIGGER append_only")
