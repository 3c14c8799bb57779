"""What every command needs: settings, the running system, how to say a problem and how to print."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import typer
from pydantic import ValidationError
from pydantic_settings import DotEnvSettingsSource, SettingsError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.events.control import first_problem
from shared.settings import Settings, no_settings
from shared.streams.connection import connect
from shared.streams.partition_count import WrongCount
from skeldir import running

T = TypeVar("T")

# A hundred years, as a number of which a time can still be made.
CENTURY_DAYS = 36_525
CENTURY_MINUTES = CENTURY_DAYS * 24 * 60

# For a terminal, as wide as it is. A pipe or a file has no width of its own: wide enough that no id or cell is cut.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 240)
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class CommandError(Exception):
    """A problem that the person can mend: one line on standard error, exit code 2."""


def load_settings() -> Settings:
    """The settings. Raises CommandError naming the variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        said = first["msg"].removeprefix("Value error, ")
        raise CommandError(f"SKELDIR_{name}: {said}" if name else said) from error
    except SettingsError as error:  # only its text says of which one
        name = str(error).partition('"')[2].partition('"')[0].upper()
        raise CommandError(f"SKELDIR_{name} is no JSON: {error.__cause__}") from error


def told_of_settings() -> list[str]:
    """What is to be said of variables, and of lines of `.env`, that are named as settings and are none."""
    return no_settings({*DotEnvSettingsSource(Settings).env_vars, *os.environ})


def find_running(settings: Settings) -> running.Running | None:
    """The system that `up` runs here, if one does."""
    return running.find(settings)


def redis_url(settings: Settings) -> str:
    """The configured log server, else that of the running system. Raises CommandError."""
    if settings.redis_url:
        return settings.redis_url
    found = find_running(settings)
    if found is None:
        raise CommandError("no system is running here: start `skeldir up`, or set SKELDIR_REDIS_URL")
    return found.redis_url


def database_url(settings: Settings, name: str = "database_url") -> str:
    """The configured database, else the running system's `name` of the ready file. Raises CommandError.

    Where the configured one is the running system's, in another role than `name` asks for, that one is taken.
    """
    if name == "admin_database_url" and settings.admin_database_url:
        return settings.admin_database_url
    found = find_running(settings)
    if settings.database_url and (found is None or not same_server(settings.database_url, found.database_url)):
        return settings.database_url
    if found is None:
        raise CommandError("no system is running here: start `skeldir up`, or set SKELDIR_DATABASE_URL")
    return str(settings.database_url if settings.database_url and name == "database_url" else getattr(found, name))


def same_server(one: str, other: str) -> bool:
    """Whether two URLs lead to the same server, in whatever role."""
    left, right = urlsplit(one), urlsplit(other)
    return (left.hostname, left.port) == (right.hostname, right.port)


def with_redis(work: Callable[[Redis, Settings], Awaitable[T]]) -> T:
    """Run `work` with a connection to the log. Raises CommandError when the server cannot be reached.

    Not every order needs to know how many partitions there are, and a stop must not fail by it: who does need it asks
    the log (`partition_count.look`).
    """
    settings = load_settings()
    url = redis_url(settings)

    async def connected() -> T:
        # The server takes only visible ASCII in a client's name; people's names may have more.
        client_name = re.sub(r"[^!-~]", "_", f"skeldir-cli-{actor()}")
        redis = connect(url, client_name=client_name, min_replicas=settings.min_replicas)
        try:
            return await work(redis, settings)
        except WrongCount as error:
            raise CommandError(str(error)) from error
        except RedisError as error:
            raise CommandError(f"the log cannot be reached: {error}") from error
        finally:
            await redis.aclose()

    return asyncio.run(connected())


def actor() -> str:
    """Who gives an order from this terminal."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user is a number without a name, and may give orders all the same
        return f"uid-{os.getuid()}"


def uuid(value: str | None, name: str) -> UUID | None:
    """A UUID option. Raises CommandError."""
    if value is None:
        return None
    try:
        return UUID(value)
    except ValueError as error:
        raise CommandError(f"{name} is a UUID, not {value!r}") from error


def problem_of(error: ValidationError) -> CommandError:
    """A validation error as one line."""
    return CommandError(first_problem(error))


def table_by(name: str, *others: str, title: str | None = None) -> Table:
    """A table of what other commands are told: however narrow the terminal, the first column is in one piece, and of
    the others nothing is cut: half an id is none."""
    table = Table(name, *others, title=title, title_justify="left")
    table.columns[0].no_wrap = True
    for column in table.columns:
        column.overflow = "fold"
    return table


def as_text(value: object) -> str:
    """What others wrote (callers, models, other operators), to be printed: no markup is read in it, and nothing in it
    does anything to a terminal. Its lines stay."""
    said = str(value)
    return escape("".join(one if one.isprintable() or one in "\n\t" else " " for one in said))


def scope_words(scope: Mapping[str, Any]) -> str:
    """A scope as `name=value`, as a person reads it in a table and types it in an option."""
    return " ".join(f"{name}={value}" for name, value in scope.items() if value is not None) or "everything"


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, default=str))
