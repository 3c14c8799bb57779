"""Secrets from files, as Docker and Kubernetes mount them: each is named as the variable that it stands for."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from skeldir.cli.context import CommandError

VARIABLE = "SKELDIR_SECRETS_DIR"
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


def read_secrets(environment: MutableMapping[str, str]) -> None:
    """Put the files' values where the environment has none. Raises CommandError: half a configuration does not start.

    Only of this process: what was given to it at its start, and its children's, other users may see.
    """
    named = environment.get(VARIABLE)
    if not named:
        return
    folder = Path(named)
    try:
        # Kubernetes keeps the files elsewhere, and links to them.
        files = [file for file in sorted(folder.iterdir()) if _NAME.fullmatch(file.name) and file.is_file()]
        found = {file.name: file.read_text().strip() for file in files}
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{VARIABLE}: {error}") from error
    if not found:
        raise CommandError(f"{VARIABLE}: {folder} has no file that is named as a variable")
    for name, value in found.items():
        environment.setdefault(name, value)
