"""Files of an embedded server belong to one server at a time, whoever of its owner, guardian and itself dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis

from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
from skeldir.embedded.process import ServerFailed
from tests.stack import eventually

Server = EmbeddedPostgres | EmbeddedValkey
Make = Callable[[Path], Server]

# Says which server it has started, and waits to be killed.
OWNER = """
import sys
from pathlib import Path
from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
server = {"EmbeddedPostgres": EmbeddedPostgres, "EmbeddedValkey": EmbeddedValkey}[sys.argv[1]](Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""

each_server = pytest.mark.parametrize("make", [EmbeddedValkey, EmbeddedPostgres])


def gone(pid: int) -> bool:
    """Whether the process has ended (one that nobody has waited for yet has ended, too)."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@each_server
def test_a_second_owner_is_refused_and_disturbs_nothing(make: Make, tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    first.start()
    try:
        with pytest.raises(ServerFailed, match="in use"):
            second.start()
        second.stop()
        assert not gone(first.pid)
        assert first.running
    finally:
        first.stop()
    second.start()
    second.stop()


@each_server
def test_a_server_does_not_outlive_its_guardian(make: Make, tmp_path: Path) -> None:
    server = make(tmp_path)
    server.start()
    before = server.pid
    guardian = psutil.Process(before).parent()
    assert guardian is not None
    guardian.kill()
    eventually(lambda: gone(before), "the server is gone")
    eventually(lambda: not server.running, "its owner sees it")
    server.start()
    assert server.pid != before
    assert server.running
    server.stop()


@each_server
def test_a_new_owner_waits_for_the_server_of_one_that_was_killed(make: Make, tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, make.__name__, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        before = int(owner.stdout.readline())
        # Paused, it cannot stop when it is asked to: the files stay in use for as long as it is there.
        os.kill(before, signal.SIGSTOP)
        owner.kill()
    server = make(tmp_path)
    try:
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(server.start)
            with pytest.raises(TimeoutError):
                starting.result(timeout=0.5)
            assert not gone(before)
            os.kill(before, signal.SIGCONT)
            starting.result()
        assert gone(before), "two servers on the same files"
    finally:
        server.stop()


def test_valkey_keeps_what_was_acknowledged_through_a_killed_guardian(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.start()
    with redis.Redis.from_url(server.url("admin")) as client:
        client.set("kept", "yes")
        guardian = psutil.Process(server.pid).parent()
        assert guardian is not None
        guardian.kill()
    eventually(lambda: not server.running, "its owner sees it")
    server.start()
    with redis.Redis.from_url(server.url("admin")) as client:
        assert client.get("kept") == b"yes"
    server.stop()
