"""The right to run the one server on a folder of files: two servers that append to the same log would destroy it.

Two locks, each gone by itself when the last process that holds it is gone, also after kill -9:

- `owner.lock`: the process that started the server. Held by another one: it is alive, so we are refused at once.
- `server.lock`: inherited by the guardian and the server. Still held while no owner is: a server whose owner was killed
  is about to stop, so we wait for it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

WAIT_S = 20.0
LOOK_S = 0.02


class InUse(RuntimeError):
    """Another process runs, or still ends, a server on these files."""


class Claim:
    """One process's claim to the files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = -1
        self._server = -1

    def take(self) -> None:
        """Take both locks; waits for a server that is about to stop. Raises InUse."""
        if self._owner < 0:
            self._owner = self._lock("owner.lock", wait_s=0)
        if self._server < 0:
            self._server = self._lock("server.lock", wait_s=WAIT_S)

    @property
    def descriptor(self) -> int:
        """Of the server's lock, for the guardian to inherit."""
        assert self._server >= 0, "taken"
        return self._server

    def hand_over(self) -> None:
        """From here on the server's lock lives as long as the guardian and the server do."""
        os.close(self._server)
        self._server = -1

    def server_is_gone(self) -> bool:
        """Whether neither guardian nor server, nor a child of theirs, runs any more."""
        try:
            os.close(self._lock("server.lock", wait_s=0))
        except InUse:
            return False
        return True

    def release(self) -> None:
        """Let others have the files."""
        for descriptor in (self._server, self._owner):
            if descriptor >= 0:
                os.close(descriptor)
        self._owner = self._server = -1

    def _lock(self, name: str, *, wait_s: float) -> int:
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    raise InUse(f"{self._folder} is in use by another process; stop that one first") from error
                time.sleep(LOOK_S)
