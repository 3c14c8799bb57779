"""One embedded server process under its guardian, its port, and the secrets beside its data."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from skeldir.embedded.claim import LOOK_S, Claim
from skeldir.private_file import write_private

STOP_S = 15.0
# Below those that a system gives to connections, and to whoever takes any (Linux from 32768, macOS from 49152): one of
# those may be another's by the time that a server listens on it, which takes seconds where it first makes its files.
PORTS = range(20_000, 30_000)
# Processes that look at the same time begin apart from each other, and none of them says the same port again soon.
_numbers = itertools.count(os.getpid() * 61)


class ServerFailed(RuntimeError):
    """An embedded server did not start; the text says where its log is."""


class GuardedProcess:
    """A server that a guardian stops when this process is gone."""

    def __init__(
        self,
        command: Sequence[str],
        stop_signal: int,
        log: Path,
        claim: Claim,
        user_id: int = -1,
        synced: Path | None = None,
    ) -> None:
        self._command = list(command)
        self._stop_signal = int(stop_signal)
        self._log = log
        self._claim = claim
        self._user_id = user_id
        self._synced = str(synced or "")
        self._guardian: subprocess.Popen[str] | None = None
        self.pid = 0
        """Of the server itself."""

    def start(self) -> None:
        """Start it on the files that are claimed; whether it serves is for the caller to find out."""
        guardian = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py"))]
        guardian += [str(self._user_id), str(self._stop_signal), str(self._claim.descriptor), self._synced]
        with self._log.open("ab") as log:
            self._guardian = subprocess.Popen(
                [*guardian, *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                pass_fds=(self._claim.descriptor,),
            )
        self._claim.hand_over()
        line = _stream(self._guardian.stdout).readline()
        if not line.strip().isdecimal():
            raise ServerFailed(f"{self._command[0]} did not start; see {self._log}")
        self.pid = int(line)

    @property
    def running(self) -> bool:
        """Whether the server (seen through its guardian) still runs."""
        return self._guardian is not None and self._guardian.poll() is None

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        if self._guardian is None:
            return
        _stream(self._guardian.stdin).close()
        try:
            self._guardian.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()
        _stream(self._guardian.stdout).close()
        self._guardian = None
        self._end_orphan()

    def _end_orphan(self) -> None:
        """A guardian that was killed could not stop its server; while the lock is held, `pid` is still that server."""
        deadline = time.monotonic() + STOP_S
        asked = False
        while self.pid and not self._claim.server_is_gone():
            late = time.monotonic() > deadline
            if late or not asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL if late else self._stop_signal)
                asked = True
            if late:
                break
            time.sleep(LOOK_S)


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None, "opened as a pipe"
    return stream


def free_port() -> int:
    """A port on the loopback address that nobody listens on now, nor is likely to before who asks for it does."""
    for number in itertools.islice(_numbers, len(PORTS)):
        port = PORTS[number % len(PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerFailed(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


def stored_secrets(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The passwords in `path` (mode 0600); those that are missing are made."""
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    missing = [name for name in names if name not in known]
    if missing:
        known.update({name: secrets.token_hex(16) for name in missing})
        write_private(path, json.dumps(known, indent=1))
    return known


def unprivileged_user() -> int:
    """The user to run a server as that refuses root: `nobody` for root, else -1 (who we are)."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else -1


def make_reachable(path: Path) -> None:
    """Let other users pass through the folders above `path` (not list them); only root needs this, for `nobody`."""
    for folder in path.resolve().parents:
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)
