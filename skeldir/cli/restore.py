"""`restore log` and `restore gap`: after a loss of the log, or of the books."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import asyncpg
import typer
from redis.exceptions import RedisError
from rich.table import Table

from services.ledger.archive.record import ArchiveProblem
from shared.settings import Settings
from shared.streams.client import LogClient
from shared.streams.connection import connect
from shared.streams.partition_count import WrongCount, look
from skeldir.cli.books import ArchiveDir, archive_dir
from skeldir.cli.context import (
    CommandError,
    Json,
    actor,
    database_url,
    find_running,
    load_settings,
    out,
    print_json,
    redis_url,
)
from skeldir.restoring import gap, log
from skeldir.restoring.accounts import Unbalanced
from skeldir.restoring.count import NotNow
from skeldir.restoring.survey import all_of

T = TypeVar("T")

app = typer.Typer(help="After a loss of the log, or of the books.", no_args_is_help=True)

Work = Callable[[LogClient, str, Settings], Awaitable[T]]


@app.command("log")
def log_(
    replace: Annotated[bool, typer.Option("--replace", help="Also where the log has state, but lost its end.")] = False,
    archive: ArchiveDir = None,
    as_json: Json = False,
) -> None:
    """Fill the log again with what the books know. All services are to be stopped. No call is made twice."""
    folder = archive_dir(archive)
    report = _run(lambda redis, url, settings: log.restore(redis, url, settings, replace=replace, archive=folder))
    if as_json:
        print_json(asdict(report))
        return
    if not report.orders and not report.partitions:
        out.print("nothing is missing: the log has what the books have")
        return
    table = Table("partition", "accounts", "reservations", "to settle", "ended as uncertain", "ended as blocked")
    for number, one in report.partitions.items():
        counts = (one.accounts, one.reservations, one.settling, one.uncertain, one.blocked)
        table.add_row(str(number), *map(str, counts))
    out.print(table)
    out.print(f"{report.orders} orders. `skeldir reconcile` lists what is uncertain, once the services run again.")


@app.command("gap")
def gap_(
    reason: Annotated[str | None, typer.Option(help="Go on behind it, and why; it is recorded.")] = None,
    as_json: Json = False,
) -> None:
    """What neither the log nor the restored books have. With a reason: the books go on behind it, and say so."""
    accepted_by = None if reason is None else f"{actor()}: {reason}"

    async def gaps(redis: LogClient, url: str, settings: Settings) -> list[gap.Gap]:
        return await gap.gaps(redis, url, accepted_by, all_of(await look(redis, settings)))

    found = _run(gaps)
    if as_json:
        print_json({"accepted": reason is not None, "gaps": [asdict(one) for one in found]})
        return
    if not found:
        out.print("no gap: the log goes back to where the books end")
        return
    table = Table("stream", "the books end at", "the log begins at")
    for one in found:
        table.add_row(one.stream, one.after, one.first)
    out.print(table)
    out.print("accepted, and noted in skipped_entries" if reason is not None else "a reason accepts it (--reason)")


def _run(work: Work[T]) -> T:
    settings = load_settings()
    try:
        if settings.redis_url is None and find_running(settings) is None:
            return _on_embedded(settings, work)
        return asyncio.run(_on(redis_url(settings), database_url(settings, "admin_database_url"), settings, work))
    except (NotNow, Unbalanced, WrongCount, ArchiveProblem) as error:
        raise CommandError(str(error)) from error
    except RedisError as error:
        raise CommandError(f"the log cannot be reached: {error}") from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandError(f"the books cannot be read: {error}") from error


def _on_embedded(settings: Settings, work: Work[T]) -> T:
    """The servers of the data directory, which run only while `skeldir up` does: started for this."""
    from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
    from skeldir.embedded.process import ServerFailed

    if not (settings.data_dir / "postgres").exists():
        raise CommandError(f"no books are in {settings.data_dir}: set SKELDIR_DATA_DIR, or the URLs of your servers")
    valkey = EmbeddedValkey(settings.data_dir, durability=settings.durability, memory_mb=settings.embedded_memory_mb)
    postgres = EmbeddedPostgres(settings.data_dir)
    try:
        valkey.start()
        postgres.start()
        return asyncio.run(_on(valkey.url("admin"), postgres.url("skeldir_ledger"), settings, work))
    except ServerFailed as error:
        raise CommandError(str(error)) from error
    finally:
        postgres.stop()
        valkey.stop()


async def _on(log_url: str, books_url: str, settings: Settings, work: Work[T]) -> T:
    redis = connect(log_url, client_name="skeldir-restore", min_replicas=settings.min_replicas)
    try:
        return await work(redis, books_url, settings)
    finally:
        await redis.aclose()
