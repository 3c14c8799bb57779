"""How a command works on the books: as whom, with which archive, with a line of progress; and its errors, as a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.progress import MofNCompleteColumn, Progress

from services.ledger.archive.record import ArchiveProblem
from services.ledger.chain.seal import UnusableKey, key_id, read_public
from services.ledger.sessions import Busy
from shared.events.registry import UndecodableEvent
from skeldir.cli.context import CommandError, database_url, err, find_running, load_settings
from skeldir.running import SEAL_PUBLIC_KEY

T = TypeVar("T")

ArchiveDir = Annotated[
    Path | None, typer.Option("--archive", help="The folder of archived events. Default: SKELDIR_ARCHIVE_DIR.")
]
PublicKeys = Annotated[
    list[Path] | None, typer.Option("--public-key", help="Whose seals count (PEM). Default: this system's.")
]


def archive_dir(given: Path | None) -> Path | None:
    """The archive's folder, where there is one."""
    return given or load_settings().archive_dir


def as_owner() -> str:
    """The database, as the owner, who may take the ledger's role. Raises CommandError."""
    return database_url(load_settings(), "admin_database_url")


def public_keys(files: list[Path] | None) -> dict[str, Ed25519PublicKey]:
    """By their ids: of the files; else the key by which the ledger of these settings, or of what runs here, seals.
    Raises CommandError."""
    settings = load_settings()
    if not files:
        found = find_running(settings)
        folder = Path(found.data_dir) if found is not None else settings.data_dir
        likely = settings.seal_key_file or folder / SEAL_PUBLIC_KEY
        files = [likely] if likely.exists() else []
    try:
        return {key_id(key): key for key in map(read_public, files)}
    except (UnusableKey, OSError) as error:
        raise CommandError(str(error)) from error


@contextmanager
def progress(what: str = "events") -> Iterator[Callable[[int, int], None]]:
    """A line on standard error, where that is a terminal."""
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=err, transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run(work: Coroutine[Any, Any, T]) -> T:
    """What comes of it. Raises CommandError."""
    return tell(lambda: asyncio.run(work))


def tell(work: Callable[[], T]) -> T:
    """The same, of what runs its own loop."""
    try:
        return work()
    except UndecodableEvent as error:
        raise CommandError(f"an event in the books cannot be read by this release: {error}") from error
    except (ArchiveProblem, Busy) as error:
        raise CommandError(str(error)) from error
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the books cannot be read or written: {error}") from error
