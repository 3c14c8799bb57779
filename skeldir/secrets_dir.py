"""Secrets from files, as Docker and Kubernetes mount them: each is named as the variable that it stands for."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "SKELDIR_SECRETS_DIR"
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")


class UnusableSecrets(Exception):
    """The folder cannot be read, or holds nothing; the text says which."""


def read_secrets(environment: MutableMapping[str, str]) -> None:
    """Put the files' values where the environment has none. Raises UnusableSecrets: half of it does not start.

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
        raise UnusableSecrets(f"{VARIABLE}: {error}") from error
    if not found:
        raise UnusableSecrets(f"{VARIABLE}: {folder} has no file that is named as a variable")
    for name, value in found.items():
        environment.setdefault(name, value)
