"""`up` and `serve`."""

from __future__ import annotations

import asyncio
import importlib
import signal
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
import uvloop
from redis.exceptions import NoPermissionError, RedisError
from rich.panel import Panel
from rich.table import Table

from shared.logs import configure_logs
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.partition_count import WrongCount, settle
from shared.streams.passing import passes
from skeldir.cli.context import CommandError, load_settings, out, told_of_settings
from skeldir.running import Running, forget, ready_files

if TYPE_CHECKING:
    from skeldir.up import System


# A service that starts waits so long for the log; then it ends, and whoever supervises it starts it again.
LOG_S = 60.0
LOOK_S = 0.5

log = structlog.get_logger(__name__)


class Service(StrEnum):
    """The services."""

    GATEWAY = "gateway"
    POLICY = "policy"
    EXECUTOR = "executor"
    LEDGER = "ledger"


def up(
    data: Annotated[
        Path | None, typer.Option(help="Where state is kept between runs. Default: SKELDIR_DATA_DIR, else .skeldir.")
    ] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written, as JSON, once everything is ready.")] = None,
) -> None:
    """Embedded servers (or yours) and all services, until Ctrl-C."""
    settings = load_settings()
    folder = data or settings.data_dir
    # First of all: whoever waits for the file may look for it already, and loading the supervisor takes a while.
    forget(*ready_files(folder, ready_file))
    # Imported here: `serve` starts four times in each `up`, and needs none of the supervisor's libraries.
    from skeldir.up import System

    system = System(settings, folder, ready_file, lambda line: out.print(f"[dim]{line}[/dim]"))
    for line in told_of_settings():
        system.say(line)
    asyncio.run(_up(system))


async def _up(system: System) -> None:
    from skeldir.embedded.process import ServerFailed
    from skeldir.up import UpFailed

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        starting = asyncio.create_task(system.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            try:
                _show(starting.result())
            except (OSError, RedisError) as error:  # a folder that cannot be written, a log that does not answer
                raise CommandError(f"it did not come up: {error}") from error
            await system.watch(stop)
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        stopping.cancel()
    except (UpFailed, ServerFailed) as error:
        raise CommandError(str(error)) from error
    finally:
        if stop.is_set():
            out.print("[dim]stopping[/dim]")
        await system.stop()


def _show(facts: Running) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row("gateway", facts.gateway_url)
    table.add_row("", f"{facts.gateway_url}/docs")
    table.add_row("ledger", facts.ledger_url)
    table.add_row("console", f"{facts.ledger_url}/console")
    table.add_row("tenant", str(facts.tenant_id))
    table.add_row("user", str(facts.user_id))
    table.add_row("key", facts.api_key)
    table.add_row("operator key", facts.operator_key)
    out.print(Panel(table, title="Skeldir is up", subtitle="Ctrl-C stops it", expand=False))
    out.print(f"psql {facts.database_url}", soft_wrap=True, markup=False, highlight=False)  # to copy: in one piece


def serve(service: Annotated[Service, typer.Argument(help="Which one.")]) -> None:
    """One service against configured servers."""
    settings = load_settings()
    if settings.redis_url is None:
        raise CommandError(
            "set SKELDIR_REDIS_URL: a service runs against configured servers (`skeldir up` brings its own)"
        )
    if service is Service.LEDGER and settings.database_url is None:
        raise CommandError("set SKELDIR_DATABASE_URL: the ledger writes to PostgreSQL")
    configure_logs(settings.log_level)
    for line in told_of_settings():
        log.warning(line)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(service, settings))


async def _serve(service: Service, settings: Settings) -> None:
    # Imported here: a service loads no other's code.
    module = importlib.import_module(f"services.{service.value}.main")
    number = await _partitions(service, settings)
    await module.serve(settings.model_copy(update={"partitions": number}))


async def _partitions(service: Service, settings: Settings) -> int:
    """How many the log has; it is waited for. Raises CommandError."""
    assert settings.redis_url is not None, "checked before"
    redis = connect(settings.redis_url, client_name=f"{service.value}-starts", min_replicas=settings.min_replicas)
    deadline = time.monotonic() + LOG_S
    try:
        while True:
            try:
                return await settle(redis, settings)
            except WrongCount as error:
                raise CommandError(str(error)) from error
            except (RedisError, OSError) as error:
                if not passes(error) or time.monotonic() > deadline:
                    acl = "; load deploy/redis/users.acl again" if isinstance(error, NoPermissionError) else ""
                    raise CommandError(f"the log does not say how many partitions it has: {error}{acl}") from error
                log.warning("waits for the log", error=str(error))
                await asyncio.sleep(LOOK_S)
    finally:
        await redis.aclose()
