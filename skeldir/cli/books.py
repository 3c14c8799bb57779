"""How a command works on the books: as whom, with which archive, with a line of progress; and its errors, as a line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from rich.progress import MofNCompleteColumn, Progress

from services.ledger.archive.record import ArchiveProblem
from services.ledger.sessions import Busy
from shared.events.registry import UndecodableEvent
from skeldir.cli.context import CommandError, database_url, err, load_settings

T = TypeVar("T")

ArchiveDir = Annotated[
    Path | None, typer.Option("--archive", help="The folder of archived events. Default: SKELDIR_ARCHIVE_DIR.")
]


def archive_dir(given: Path | None) -> Path | None:
    """The archive's folder, where there is one."""
    return given or load_settings().archive_dir


def as_owner() -> str:
    """The database, as the owner, who may take the ledger's role. Raises CommandError."""
    return database_url(load_settings(), "admin_database_url")


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
