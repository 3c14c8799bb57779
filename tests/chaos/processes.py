"""The processes of a chaos run: those of `skeldir up`, and those that the run starts itself and starts again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
SKEW_HOURS = {"second executor": 29.0, "second policy": -5.0}


@dataclass
class Companion:
    """A process of the run's own."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again)."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self.name == "provider" else log,
                stderr=log,
                env=self.environment,
                cwd=ROOT,
                start_new_session=True,
            )

    def first_line(self) -> str:
        """What it prints first."""
        assert self.process is not None and self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def stop(self) -> None:
        """End it, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


class Processes:
    """Finds each process of the run by its name."""

    def __init__(self, stack: Stack, companions: dict[str, Companion]) -> None:
        self._stack = stack
        self._companions = companions

    def find(self, name: str) -> psutil.Process | None:
        """The process, or None while it is away."""
        try:
            process = psutil.Process(self._pid(name))
            wanted = {"postgres": "postgres", "valkey": "valkey-server"}.get(name, "python")
            # A number that another process has by now is not followed.
            return process if wanted in " ".join(process.cmdline()[:1]) else None
        except (psutil.Error, OSError, ValueError, StopIteration, KeyError):
            return None

    async def command(self, *arguments: str, lines: int | None = None) -> tuple[int, str]:
        """An operator's `skeldir` command: its code and its last line. Killed once it has said so many `lines`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skeldir", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=self._stack.environment,
        )  # fmt: skip
        said: list[str] = []
        assert process.stdout is not None
        async for line in process.stdout:
            said.append(line.decode().strip())
            if len(said) == lines:
                process.kill()
        return await process.wait(), said[-1] if said else ""

    def _pid(self, name: str) -> int:
        if name in self._companions:
            process = self._companions[name].process
            return process.pid if process is not None and process.poll() is None else 0
        if name == "postgres":
            return int((self._stack.data / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
        if name == "valkey":
            below = psutil.Process(self._stack.ready["supervisor_pid"]).children(recursive=True)
            server: int = next(one.pid for one in below if "valkey-server" in " ".join(_command(one)[:1]))
            return server
        found: int = self._stack.ready["pids"][name]
        return found

    def revive(self) -> None:
        """Start the companions that have died. `skeldir up` does so for its own."""
        for companion in self._companions.values():
            if companion.process is None or companion.process.poll() is not None:
                companion.stop()
                companion.start()


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def provider(account: Path, seed: int, log: Path) -> Companion:
    """The provider, on a port that stays its own."""
    command = ["tests.chaos.provider", "--account", str(account), "--seed", str(seed)]
    companion = Companion("provider", command, dict(os.environ), log)
    companion.start()
    companion.command += ["--port", companion.first_line()]
    return companion


def second(service: str, stack: Stack, link_port: int, log: Path) -> Companion:
    """One more process of a service: behind a link, and with a wrong clock."""
    name = f"second {service}"
    environment = {
        **stack.environment,
        "SKELDIR_REDIS_URL": role_url(stack, service, link_port),
        f"SKELDIR_{service.upper()}_PORT": "0",
        "SKELDIR_OWNER_PID": str(os.getpid()),
    }
    command = ["tests.chaos.skewed", str(SKEW_HOURS[name]), "serve", service]
    return Companion(name, command, environment, log)


def role_url(stack: Stack, role: str, port: int | None = None) -> str:
    """The log server in a role, directly or by a link's port."""
    password = json.loads((stack.data / "valkey" / "passwords.json").read_text())[role]
    return f"redis://{role}:{password}@127.0.0.1:{port or log_port(stack)}/0"


def log_port(stack: Stack) -> int:
    """The log server's own port."""
    return int(stack.ready["redis_url"].rpartition(":")[2].partition("/")[0])


Find = Callable[[str], psutil.Process | None]
