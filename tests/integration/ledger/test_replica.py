"""The read API on a streaming replica: it shows what the replica has, and writes down who looks on the primary."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from services.ledger import api, books, metrics, sessions
from services.ledger.keys import Doorkeeper
from services.ledger.overview import Overview
from services.ledger.replica import Replica
from shared.clock import ServerClock
from shared.service import health_routes
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from skeldir.embedded import EmbeddedPostgres
from skeldir.embedded.postgres import BIN
from skeldir.embedded.process import make_reachable
from skeldir.private_file import write_private
from tests.integration.ledger.conftest import FULL, Bench, eventually
from tests.integration.ledger.test_api import Door


class Standby(EmbeddedPostgres):
    """A copy that follows `primary`: `pg_basebackup --write-recovery-conf`."""

    def __init__(self, folder: Path, primary: EmbeddedPostgres) -> None:
        super().__init__(folder)
        self._primary = primary
        self._dir.mkdir()
        write_private(self._dir / "passwords.json", (primary._dir / "passwords.json").read_text())

    def _make_cluster(self) -> None:
        user = self._user_id
        source = self._primary.url("postgres").replace("/skeldir", "/postgres")
        self._data.mkdir(mode=0o700)
        if user >= 0:
            make_reachable(self._data)
            os.chown(self._data, user, user)
        who: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user >= 0 else {}
        command = [str(BIN / "pg_basebackup"), "-D", str(self._data), "-d", source, "-R", "-X", "stream", "-c", "fast"]
        subprocess.run([*command, "--no-sync"], check=True, timeout=100, cwd="/", **who)

    def _make_database(self, connection: psycopg.Connection) -> None:
        """It is the primary's."""

    def _make_roles(self) -> None:
        """They are the primary's."""


@pytest.fixture(scope="module")
def standby(postgres: EmbeddedPostgres, new_folder: Callable[[], Path]) -> Iterator[Standby]:
    """A replica of the suite's database."""
    copy = Standby(new_folder(), postgres)
    copy.start()
    yield copy
    copy.stop()


async def test_reads_come_from_the_replica_and_looks_are_written_down_on_the_primary(
    bench: Bench, standby: Standby, postgres: EmbeddedPostgres, as_ledger: Any
) -> None:
    control, clock = ControlReader(bench.redis_as("ledger"), 60_000), ServerClock()
    async with (
        sessions.pool(postgres.url("skeldir_ledger"), name="api", size=2) as primary,
        sessions.pool(standby.url("skeldir_ledger"), name="reads", size=2) as pool,
    ):
        replica = Replica(pool, primary)
        looking = asyncio.create_task(replica.run())
        overview = Overview(replica, bench.redis_as("ledger"), control, clock, Partitions(1))
        app = api.build(replica, Doorkeeper(control, clock), health_routes(lambda: {}), overview)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ledger") as client:
            door = Door(bench, control, client)
            home = uuid4()
            mine = await door.key("producer", bench.tenant, bench.users[0])
            operators = await door.key("operator", home)
            history = bench.history(FULL)
            as_superuser = standby.url("postgres").replace("/skeldir", "/postgres")
            async with sessions.pool(as_superuser, name="pause", size=1) as pausing, pausing.acquire() as pause:
                await pause.execute("SELECT pg_wal_replay_pause()")
                paused = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
                await eventually(lambda: pause.fetchval(paused), "what comes from here on is not replayed")
                await books.commit(as_ledger, {}, {}, history.records() + history.control_records())
                assert (await door.get("/v1/calls", mine)).json()["calls"] == [], "it shows what the replica has"
                await eventually(lambda: _true(metrics.REPLICA_LAG._value.get() > 0), "the lag is told")
                await pause.execute("SELECT pg_wal_replay_resume()")
            await eventually(lambda: _shown(door, mine), "what has been replayed")
            await eventually(lambda: _true(metrics.REPLICA_LAG._value.get() == 0), "the lag is over")
            assert (await door.get(f"/v1/calls?tenant_id={bench.tenant}", operators)).json()["calls"]
            looks = await as_ledger.fetch("SELECT what FROM read_audit WHERE key_tenant_id = $1", home)
            assert [row["what"] for row in looks] == ["calls"]
            await eventually(lambda: _true(replica.problem is None), "it can be read")
            standby.stop()
            await eventually(lambda: _true(replica.problem is not None), "it says that it cannot be read")
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _shown(door: Door, key: str) -> bool:
    reply = await door.get("/v1/calls", key)  # refused where the replica cannot wait for its reader any longer
    return reply.status_code == 200 and bool(reply.json()["calls"])


async def _true(holds: bool) -> bool:
    return holds
