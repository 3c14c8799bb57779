"""The `skeldir` command. One file for each group of commands; each is listed once, here."""

from __future__ import annotations

import sys

import click
import typer

from skeldir.cli import control, dashboards, dead_letters, doctor, keys, ledger, limits, services, submit, tail
from skeldir.cli.context import CommandError

app = typer.Typer(
    name="skeldir",
    help="Governs the language-model calls that a company's software makes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
services.register(app)
submit.register(app)
app.add_typer(control.kill_switch, name="kill-switch")
app.add_typer(control.shutoff, name="shutoff")
app.add_typer(limits.app, name="limits")
app.add_typer(keys.app, name="key")
app.add_typer(dashboards.app, name="dashboards")
app.add_typer(ledger.app, name="ledger")
app.add_typer(dead_letters.app, name="dead-letters")
tail.register(app)
doctor.register(app)


def main() -> None:
    """Run a command. Bad input: one clear line on standard error, exit 2, no traceback."""
    try:
        code = app(standalone_mode=False)
    except CommandError as error:
        _say(str(error))
        sys.exit(2)
    except click.exceptions.NoArgsIsHelpError as error:
        typer.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _say(error.format_message())
        sys.exit(2)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _say(problem: str) -> None:
    sys.stderr.write(f"skeldir: {' '.join(problem.split())}\n")
