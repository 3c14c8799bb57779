"""`docs/reference/cli.md`: the `skeldir` command and all that it takes, as typer writes it."""

from __future__ import annotations

import re

import typer
from typer.cli import get_docs_for_click

from skeldir.cli import COMMANDS, application

HEAD = """\
# The command line

Every command says the same of itself with `--help`. Exit codes: 0 done; 1 the answer is no, or not all is well; 2 the
command line or a setting is wrong, with one line that says what to do. `make reference` writes this page.

"""


def page() -> str:
    """The whole page."""
    command = typer.main.get_command(application(*COMMANDS))
    context = typer.Context(command, info_name="skeldir")
    text = get_docs_for_click(obj=command, ctx=context, name="skeldir")
    text = text.partition("\n")[2].replace("* `--help`: Show this message and exit.\n", "")
    text = re.sub(r"\*\*Options\*\*:\n\n(?=\n|\Z)", "", text)
    return HEAD + re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"
