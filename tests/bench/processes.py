"""The processes of a running system: frozen and let go one by one, and what CPU and memory each has used."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.stack import Stack, paused

SERVICES = ("gateway", "policy", "executor", "ledger")


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    """All services stand still."""
    with paused(*(stack.pid(name) for name in SERVICES)):
        yield


@contextmanager
def let_go(stack: Stack, service: str) -> Iterator[None]:
    """One of those that stand still goes on meanwhile."""
    pid = stack.ready["pids"][service]
    os.kill(pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGSTOP)


def families(stack: Stack) -> dict[str, list[psutil.Process]]:
    """The processes, by what they are."""
    found = {name: [psutil.Process(pid)] for name, pid in stack.ready["pids"].items()}
    for server, name in (("valkey", "valkey-server"), ("postgres", "postgres")):
        family = [one for one in psutil.process_iter(["name", "cmdline"]) if name in (one.info["name"] or "")]
        found[server] = [one for one in family if str(stack.data) in " ".join(_ancestry(one))]
    return found


def cpu_s(family: list[psutil.Process]) -> float:
    """Seconds of CPU, user and system."""
    total = 0.0
    for one in family:
        try:
            times = one.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def memory_mb(family: list[psutil.Process]) -> float:
    """What they have to themselves, and their share of what they share."""
    total = 0
    for one in family:
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def _ancestry(process: psutil.Process) -> list[str]:
    """Command line, working folder: one of them names the data directory."""
    try:
        return [*process.cmdline(), process.cwd()]
    except psutil.Error:
        return []
