"""The commands of a runbook, and a shell that runs them as an operator's would.

In a page, a block of ```console has commands (lines that begin with `$ `, going on in lines that begin with `> `), and
below each the output that is to be expected, where `...` stands for anything. `<!-- given: WHAT -->` before a block
says what must be so for its commands to make sense: a test brings it about.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import redis

from skeldir.cli.context import out
from skeldir.embedded.postgres import BIN
from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "runbooks"
COMMAND_S = 100.0
DONE = "-- done:"

_PARTS = re.compile(r"^<!-- given: (?P<given>.+?) -->$|^```console\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL)

Answer = tuple[int, str, str]
"""Exit code, standard output, standard error."""
Program = Callable[[list[str], dict[str, str], Path], Answer]
"""Of arguments, environment and folder."""


@dataclass(frozen=True)
class Step:
    """One command, what it should print, and what is brought about before it."""

    command: str
    expected: str
    line: int
    given: tuple[str, ...] = ()


def steps(page: str) -> list[Step]:
    """All commands of a page, in their order."""
    found: list[Step] = []
    given: list[str] = []
    for part in _PARTS.finditer(page):
        if part["given"]:
            given.append(part["given"])
            continue
        line = page.count("\n", 0, part.start("block")) + 1
        for command, expected, below in _of_block(part["block"]):
            found.append(Step(command, expected, line + below, tuple(given)))
            given = []
    assert not given, f"nothing follows on {given}"
    return found


def _of_block(block: str) -> list[tuple[str, str, int]]:
    found: list[tuple[list[str], list[str], int]] = []
    for number, line in enumerate(block.splitlines()):
        if line.startswith("$ "):
            found.append(([line[2:]], [], number))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1][0].append(line[2:])
        else:
            assert found, f"output before the first command: {line}"
            found[-1][1].append(line)
    return [("\n".join(command), "\n".join(expected), number) for command, expected, number in found]


def is_as_expected(expected: str, output: str) -> bool:
    """Whether the output is what the page says; spaces at the ends of lines do not count."""
    wanted, found = ("\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (expected, output))
    pattern = ".*?".join(re.escape(part) for part in wanted.split("..."))
    return re.fullmatch(pattern, found, re.DOTALL) is not None


class Shell:
    """A bash whose commands `programs` are functions here, which is quicker than a process with our libraries each."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        programs: Mapping[str, Program],
        path: tuple[Path, ...] = (),
    ) -> None:
        self._folder = folder
        self._programs = programs
        self._bin = folder / "bin"
        self._bin.mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        address = folder / "s"
        self._listener.bind(str(address))
        self._listener.listen()
        for name in programs:
            script = self._bin / name
            client = f"{sys.executable} -I -S {Path(__file__).with_name('runbook_client.py')}"
            script.write_text(f'#!/bin/sh\nexec {client} {address} {name} "$@"\n')
            script.chmod(0o755)
        paths = ":".join([str(self._bin), *map(str, path), os.environ.get("PATH", "/usr/bin:/bin")])
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, "PATH": paths},
            cwd=folder,
        )
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bash.kill()
        self._bash.wait()
        self._listener.close()

    def run(self, command: str) -> tuple[int, str]:
        """Run one command in the shell; its exit code, and what it printed."""
        assert self._bash.stdin is not None and self._bash.stdout is not None, "both are pipes"
        self._bash.stdin.write(f"{command}\nprintf '\\n{DONE}%d\\n' $?\n".encode())
        self._bash.stdin.flush()
        output, deadline = b"", time.monotonic() + COMMAND_S
        while not (end := re.search(rb"\n" + DONE.encode() + rb"(\d+)\n$", output)):
            ready, _, _ = select.select([self._bash.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"not within {COMMAND_S:g} s: {command}\n{output.decode()}"
            more = os.read(self._bash.stdout.fileno(), 65536)
            assert more, f"the shell ended: {command}\n{output.decode()}"
            output += more
        return int(end[1]), output[: end.start()].decode()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection, connection.makefile("rw") as stream:
                asked = json.loads(stream.readline())
                try:
                    answer = self._programs[asked["name"]](asked["arguments"], asked["environment"], Path(asked["cwd"]))
                except Exception as error:  # to be seen by the test, whatever it is
                    answer = (70, "", f"{type(error).__name__}: {error}\n")
                stream.write(json.dumps(answer) + "\n")


class Operator:
    """Who follows the runbooks of a running system: a shell, and what its commands are here."""

    def __init__(self, stack: Stack, folder: Path, more: Mapping[str, Program] | None = None, **variables: str) -> None:
        self.stack = stack
        # Of `skeldir up`, whose servers are its own, a person has no URLs to give.
        self._own = "SKELDIR_REDIS_URL" not in stack.environment
        ready = stack.ready
        environment = {
            **stack.environment,
            "SKELDIR_REDIS_URL": ready["redis_url"],
            "SKELDIR_DATABASE_URL": ready["database_url"],
            "SKELDIR_ADMIN_DATABASE_URL": ready["admin_database_url"],
            "SKELDIR_GATEWAY_URL": ready["gateway_url"],
            "SKELDIR_API_KEY": ready["api_key"],
            "TENANT": ready["tenant_id"],
            "WHO": ready["user_id"],
            **variables,
        }
        programs = {"skeldir": self._skeldir, "redis-cli": _redis_cli, **(more or {})}
        self.shell = Shell(folder, environment, programs, path=(BIN,))

    def _skeldir(self, arguments: list[str], environment: dict[str, str], folder: Path) -> Answer:
        if self._own:
            environment = {name: value for name, value in environment.items() if name != "SKELDIR_REDIS_URL"}
        before = Path.cwd()
        out.width = 160
        os.chdir(folder)
        try:
            done = self.stack.cli_in(environment, *arguments)
        finally:
            os.chdir(before)
            out.width = None  # type: ignore[assignment]
        return done.returncode, done.stdout, done.stderr


def _redis_cli(arguments: list[str], environment: dict[str, str], folder: Path) -> Answer:
    """What of redis-cli the pages use; the wheels do not bring the real one."""
    assert arguments[0] == "-u"
    with redis.Redis.from_url(arguments[1], decode_responses=True) as client:
        reply = client.execute_command(*arguments[2:])
    return 0, f"{'OK' if reply is True else reply}\n", ""


def walk(shell: Shell, page: Path, bring_about: Callable[[str], None]) -> int:
    """Run every command of a page; how many there were. Fails at the first whose output is another than it says."""
    found = steps(page.read_text())
    for step in found:
        for what in step.given:
            bring_about(what)
        code, output = shell.run(step.command)
        where = f"{page.relative_to(ROOT)}:{step.line}: {step.command}"
        assert code == 0, f"{where}\nexit {code}\n{output}"
        assert is_as_expected(step.expected, output), f"{where}\nexpected:\n{step.expected}\nfound:\n{output}"
    return len(found)
