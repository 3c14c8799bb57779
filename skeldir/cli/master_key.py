"""The master key of the texts, as the ledger of these settings has it, or of what runs here."""

from __future__ import annotations

from pathlib import Path

from shared.settings import Settings
from shared.texts.master_key import MasterKeys, UnusableMasterKey, read_master_keys
from skeldir.cli.context import CommandError, find_running
from skeldir.running import MASTER_KEY


def master_keys(settings: Settings) -> MasterKeys | None:
    """None where there is none. Raises CommandError."""
    file, command = settings.master_key_file, settings.master_key_command
    found = find_running(settings) if file is None and command is None else None
    if found is not None and (likely := Path(found.data_dir) / MASTER_KEY).exists():
        file = likely
    try:
        return read_master_keys(file, command)
    except UnusableMasterKey as error:
        raise CommandError(str(error)) from error
