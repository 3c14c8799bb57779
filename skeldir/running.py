"""The system that `skeldir up` runs here: what its ready file says, and how a command finds it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import platformdirs
from pydantic import BaseModel, ConfigDict

from shared.settings import Settings
from skeldir.private_file import write_private

READY = "ready.json"
MASTER_KEY = "master-key"
SEAL_KEY = "seal-key.pem"
SEAL_PUBLIC_KEY = "seal-key.pub"


class Running(BaseModel):
    """The ready file. It holds credentials, so only its owner may read it."""

    model_config = ConfigDict(extra="ignore")

    gateway_url: str
    ledger_url: str
    redis_url: str
    database_url: str
    admin_database_url: str
    api_key: str
    operator_key: str
    tenant_id: UUID
    user_id: UUID
    pids: dict[str, int]
    supervisor_pid: int
    data_dir: str
    ledger_database_url: str | None = None
    webhook_secret_key: str | None = None


def ready_files(folder: Path, asked: Path | None) -> list[Path]:
    """Where it is said that everything is ready: in the data directory, and where it is asked for."""
    return [folder / READY, *([asked] if asked else [])]


def write(running: Running, *files: Path) -> None:
    """Write it, each file in one step."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, running.model_dump_json(indent=1) + "\n")


def forget(*files: Path) -> None:
    """Remove what this process, or a system that has ended, wrote: who waits for a file must not hear of the last one.

    What is no ready file stays, and so does that of another system that runs. At a start this process's own id in it is
    that of an earlier process: in a container they begin anew.
    """
    for file in files:
        with suppress(OSError, ValueError):
            left = Running.model_validate(json.loads(file.read_text())).supervisor_pid
            if left == os.getpid() or not _alive(left):
                file.unlink()


def find(settings: Settings) -> Running | None:
    """The running system of the data directory. Where none is said: else the last one that this user started here.

    Who says which one means no other: a command for one that has been stopped must not reach another that runs.
    """
    said = "data_dir" in settings.model_fields_set
    for file in (settings.data_dir / READY, *(() if said else (pointer(),))):
        try:
            running = Running.model_validate(json.loads(file.read_text()))
        except (OSError, ValueError):
            continue
        if _alive(running.supervisor_pid):
            return running
    return None


def pointer() -> Path:
    """Where `up` leaves word of itself for commands that run in another folder."""
    return Path(platformdirs.user_cache_dir("skeldir")) / READY


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
