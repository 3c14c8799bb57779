"""PgBouncer in transaction mode between the ledger and PostgreSQL: the books are the same. Not there, not tried."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.gateway.history import History
from services.ledger import books, sessions
from skeldir.embedded import EmbeddedPostgres
from skeldir.embedded.process import free_port, make_reachable, unprivileged_user
from tests.integration.ledger.conftest import FULL, Bench, eventually, snapshot
from tests.stack import eventually as sync_eventually

PGBOUNCER = shutil.which("pgbouncer")
SERVERS = 2
STARTS = 5
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer here (Debian: apt-get install pgbouncer)")


@pytest.fixture(scope="module")
def pooled(postgres: EmbeddedPostgres, new_folder: Callable[[], Path]) -> Iterator[Callable[[str], str]]:
    """The URL of a role through a pooler that has two servers for it."""
    folder = new_folder()
    urls = {role: postgres.url(role) for role in ("app_user", "skeldir_ledger")}
    secrets = "".join(f'"{role}" "{re.findall(":([^:@]+)@", url)[0]}"\n' for role, url in urls.items())
    (folder / "users.txt").write_text(secrets)
    running, port = _started(folder, f"[databases]\nskeldir = host=127.0.0.1 port={postgres.port}\n")
    yield lambda role: urls[role].replace(f":{postgres.port}/", f":{port}/")
    running.terminate()
    running.wait(60)


def _started(folder: Path, databases: str) -> tuple[subprocess.Popen[bytes], int]:
    """It, and where it listens. A port that was free may be taken by the time that it is wanted: then on another."""
    user, said = unprivileged_user(), folder / "pgbouncer.log"
    who: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user >= 0 else {}
    for _ in range(STARTS):
        port = free_port()
        (folder / "pgbouncer.ini").write_text(
            f"{databases}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\n"
            f"pool_mode = transaction\ndefault_pool_size = {SERVERS}\nlogfile = {said}\n"
        )
        if user >= 0:
            make_reachable(folder / "users.txt")
            for one in (folder, *folder.iterdir()):
                os.chown(one, user, user)
        running = subprocess.Popen([str(PGBOUNCER), "-q", str(folder / "pgbouncer.ini")], cwd="/", **who)

        def has_begun(running: subprocess.Popen[bytes] = running, port: int = port) -> bool:
            listens = said.exists() and f"listening on 127.0.0.1:{port}" in said.read_text()
            return listens or running.poll() is not None

        sync_eventually(has_begun, "the pooler listens, or has ended")
        if running.poll() is None:
            return running, port
    raise AssertionError(f"no pooler: {said.read_text()}")


async def busy(pool: Any, looks: int) -> list[str]:
    """Many at once, with and without a transaction, on two servers; what failed."""

    async def look(number: int) -> None:
        async with pool.acquire() as connection:
            await books.positions(connection, [f"stream {number}"])
            await connection.fetchval("SELECT $1::int + $2::int", number, 1)
            await connection.executemany("SELECT $1::text", [("a",), ("b",)])
        async with pool.acquire() as connection, sessions.reading(connection, sessions.USER, uuid4(), [uuid4()]):
            assert await connection.fetchval("SELECT count(*) FROM llm_api_calls") == 0

    replies = await asyncio.gather(*(look(number) for number in range(looks)), return_exceptions=True)
    return [str(reply) for reply in replies if isinstance(reply, BaseException)]


async def test_the_books_are_the_same(bench: Bench, pooled: Callable[[str], str], as_ledger: Any) -> None:
    through = replace(bench, database_url=pooled("skeldir_ledger"))
    history = bench.history(FULL)
    await bench.append(*history.entries)
    async with through.writer(database_pooler="transaction"), through.writer("two", database_pooler="transaction"):

        async def booked() -> bool:
            count = await as_ledger.fetchval("SELECT count(*) FROM events WHERE tenant_id = $1", bench.tenant)
            return bool(count >= len(history.entries))

        await eventually(booked, "all events are in the books")
    assert any((await snapshot(as_ledger, bench.tenant)).values())
    app = History(pooled("app_user"), pooler="transaction")
    tasks = [UUID(event.subject) for _, _, event in history.entries if event.type == "task.succeeded"]
    known = await asyncio.gather(*(app.fingerprints(tasks) for _ in range(10)))
    await app.close()
    assert all(one.keys() == set(tasks) for one in known)


async def test_many_share_two_servers(pooled: Callable[[str], str]) -> None:
    url = pooled("skeldir_ledger")
    async with sessions.pool(url, name="test", size=10, pooler="transaction") as pool:
        assert await busy(pool, 60) == []


async def test_without_the_setting_it_fails(pooled: Callable[[str], str]) -> None:
    """Else the setting would be for nothing: with this PgBouncer (before 1.21, or `max_prepared_statements` 0)."""
    async with sessions.pool(pooled("skeldir_ledger"), name="test", size=10) as pool:
        failed = await busy(pool, 60)
    assert any("prepared statement" in one for one in failed), failed[:3]
