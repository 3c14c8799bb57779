"""The executor as its own process: ready when it reads, gone when it is told, and survived by its work."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.executor.journal import GROUP
from shared.events.outcomes import TaskFailed, TaskSucceeded
from shared.partitions import PARTITIONS, Partition
from shared.streams.connection import connect
from skeldir.embedded import EmbeddedValkey
from skeldir.embedded.process import free_port
from tests.integration.executor.conftest import Bench, until


@asynccontextmanager
async def process(valkey: EmbeddedValkey, port: int, **changed: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`skeldir serve executor`, until the block ends."""
    environment = {
        **os.environ,
        "SKELDIR_REDIS_URL": valkey.url("executor"),
        "SKELDIR_EXECUTOR_PORT": str(port),
        "SKELDIR_EXECUTOR_CLAIM_IDLE_MS": "500",
        **changed,
    }
    command = [sys.executable, "-m", "skeldir", "serve", "executor"]
    async with connect(valkey.url("admin"), client_name="test") as admin:
        await admin.set(PARTITIONS, "1")  # other tests have used other partitions of this log
        running = await asyncio.create_subprocess_exec(*command, env=environment)
        try:
            yield running
        finally:
            if running.returncode is None:
                running.kill()
            await running.wait()
            await admin.delete(PARTITIONS)


async def status(port: int, path: str) -> int:
    """The HTTP status; 0 while nobody listens."""

    def ask() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    return await asyncio.to_thread(ask)


async def is_ready(port: int) -> bool:
    return await status(port, "/readyz") == 200


async def test_it_serves_stops_on_sigterm_and_leaves_nothing_behind(bench: Bench, valkey: EmbeddedValkey) -> None:
    bench.partition = Partition(0)  # the one partition that this process is told of
    port = free_port()
    async with process(valkey, port, SKELDIR_PARTITIONS="1") as running:
        await until(lambda: is_ready(port), "readiness")
        event = await bench.allow({"simulated_delay_ms": 1500, "simulated_output_text": "hello"})
        # Where this process stands still for longer than the call takes, it has ended by now.
        await until(lambda: _state(bench, event.subject, "attempting", "ended"))
        running.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.wait(), 40) == 0
    assert (await bench.result(event))["output_text"] == "hello", "what was under way came to its end"
    assert await bench.admin.xinfo_consumers(bench.partition.decisions, GROUP) == []


async def test_killed_in_mid_call_its_task_is_ended_by_the_next(bench: Bench, valkey: EmbeddedValkey) -> None:
    bench.partition = Partition(0)
    before = len(await bench.outcomes())
    event = await bench.allow({"simulated_delay_ms": 20_000}, timeout_ms=30_000)
    async with process(valkey, free_port(), SKELDIR_PARTITIONS="1") as running:
        await until(lambda: _state(bench, event.subject, "attempting"))
        running.send_signal(signal.SIGKILL)
        await running.wait()
    other = await bench.allow({"simulated_output_text": "lives"})
    async with process(valkey, free_port(), SKELDIR_PARTITIONS="1"):
        await until(lambda: _state(bench, event.subject, "ended"))
        await until(lambda: _state(bench, other.subject, "ended"))
    ends = {end.subject: end.data for end in (await bench.outcomes())[before:] if end.type != "attempt.started"}
    lost, lived = ends[event.subject], ends[other.subject]
    assert isinstance(lost, TaskFailed) and (lost.reason, lost.spend) == ("attempt_uncertain", "uncertain")
    assert isinstance(lived, TaskSucceeded) and lived.output_text == "lives"


async def _state(bench: Bench, task_id: str, *wanted: str) -> bool:
    state: bytes | None = await bench.policy.hget(f"{bench.partition.tag}:task:{task_id}", "state")
    return state is not None and state.decode() in wanted
