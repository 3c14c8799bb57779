"""Embedded servers: tied to their owner's life, state kept, and each role unable to do what it must not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey, guardian
from tests.stack import eventually

OWNER = """
import sys
from pathlib import Path
from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
valkey, postgres = EmbeddedValkey(Path(sys.argv[1])), EmbeddedPostgres(Path(sys.argv[1]))
valkey.start(); postgres.start()
print(valkey.pid, postgres.pid, flush=True)
sys.stdin.read()
"""

TASKS, DECISIONS, OUTCOMES = "{skeldir:0}:tasks", "{skeldir:0}:decisions", "{skeldir:0}:outcomes"


def test_servers_stop_when_their_owner_is_killed(new_folder: Callable[[], Path]) -> None:
    tmp_path = new_folder()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the servers are gone")
    owner.stdout.close()


def test_state_survives_a_restart_and_a_kill(new_folder: Callable[[], Path]) -> None:
    tmp_path = new_folder()
    valkey, postgres = EmbeddedValkey(tmp_path, durability="fsync"), EmbeddedPostgres(tmp_path)
    for restart in (False, True):
        valkey.start()
        postgres.start()
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            if not restart:
                connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
            assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]
        for pid in (valkey.pid, postgres.pid):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not valkey.running and not postgres.running, "both are gone")
    valkey.stop()
    postgres.stop()


@pytest.mark.parametrize(
    ("role", "command"),
    [
        # A producer hands tasks in, and reads nothing: no prompt of anybody.
        ("producer", ("XRANGE", "skeldir:inbox", "-", "+")),
        ("producer", ("XADD", "skeldir:control", "*", "data", "{}")),
        ("producer", ("XADD", TASKS, "*", "data", "{}")),
        ("producer", ("XREAD", "STREAMS", DECISIONS, "0")),
        # Only policy decides.
        ("gateway", ("XADD", DECISIONS, "*", "type", "task.allowed", "data", "{}")),
        ("executor", ("XADD", DECISIONS, "*", "type", "task.allowed", "data", "{}")),
        ("ledger", ("XADD", DECISIONS, "*", "type", "task.allowed", "data", "{}")),
        ("operator", ("XADD", DECISIONS, "*", "type", "task.allowed", "data", "{}")),
        # Only the executor says how it ended.
        ("policy", ("XADD", OUTCOMES, "*", "type", "task.succeeded", "data", "{}")),
        ("gateway", ("XADD", OUTCOMES, "*", "type", "task.succeeded", "data", "{}")),
        # Budgets are policy's alone.
        ("executor", ("SET", "{skeldir:0}:account:t:u", "{}")),
        ("gateway", ("GET", "{skeldir:0}:account:t:u")),
        ("executor", ("HSET", "{skeldir:0}:lease:policy", "token", "9")),
        # Services give no orders but those that the gateway hands on, and nobody empties the log.
        ("executor", ("XADD", "skeldir:control", "*", "data", "{}")),
        ("gateway", ("XTRIM", TASKS, "MAXLEN", "0")),
        ("policy", ("FLUSHALL",)),
        ("ledger", ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")),
        ("operator", ("ACL", "LIST")),
    ],
)
async def test_a_role_cannot_do_what_it_must_not(
    role: str, command: tuple[str, ...], redis_as: Callable[[str], Redis]
) -> None:
    with pytest.raises(NoPermissionError):
        await redis_as(role).execute_command(*command)


async def test_a_script_gives_no_role_more_than_it_has(redis_as: Callable[[str], Redis]) -> None:
    """The executor acknowledges decisions within a script; adding one there is refused too."""
    source = "#!lua\nreturn redis.call('XADD', KEYS[1], '*', 'type', 'task.allowed', 'data', '{}')"
    with pytest.raises(Exception, match=r"(?i)permission"):
        await redis_as("executor").eval(source, 1, DECISIONS)


async def test_nobody_comes_in_without_a_password(valkey: EmbeddedValkey) -> None:
    anonymous = Redis(host="127.0.0.1", port=valkey.port)
    with pytest.raises(Exception, match=r"(?i)auth"):
        await anonymous.ping()
    await anonymous.aclose()


@pytest.mark.parametrize(("durability", "given"), [("everysec", "no"), ("fsync", "always")])
def test_the_server_writes_to_the_disk_as_often_as_is_configured(
    durability: str, given: str, new_folder: Callable[[], Path]
) -> None:
    server = EmbeddedValkey(new_folder(), durability=durability)
    server.start()
    try:
        with BlockingRedis.from_url(server.url("admin"), decode_responses=True) as admin:
            assert admin.config_get("append*")["appendfsync"] == given
            assert admin.config_get("append*")["appendonly"] == "yes"
    finally:
        server.stop()


def test_the_guardian_brings_to_the_disk_what_the_server_only_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    files = [tmp_path / "appendonly.aof.1.base.rdb", tmp_path / "appendonly.aof.1.incr.aof"]
    for file in files:
        file.write_text("written")
    guardian.sync(str(tmp_path))
    assert sorted(synced) == sorted(file.stat().st_ino for file in files)
    guardian.sync(str(tmp_path / "not yet"))


async def test_policys_state_is_never_evicted(redis_as: Callable[[str], Redis]) -> None:
    assert (await redis_as("admin").config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
