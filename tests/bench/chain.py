"""The whole chain over HTTP: tasks a second and latency by concurrency, and the CPU that each process spends on a task.

CPU a task hardly depends on what else runs on the machine; tasks a second do.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import psutil

from tests.bench.figures import Figure, milliseconds
from tests.stack import Stack

AT_ONCE = (1, 16, 64, 256)
TASKS = {1: 200, 16: 2000, 64: 4000, 256: 4000}


class Caller:
    """A keep-alive connection that posts tasks and waits for their results: HTTP/1.1 by hand, which costs little."""

    def __init__(self, url: str, key: str, user: str) -> None:
        self._host, _, self._port = url.removeprefix("http://").partition(":")
        self._head = (
            f"POST /v1/tasks HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {key}\r\nPrefer: wait=30\r\n"
            "Content-Type: application/json\r\n"
        )
        self._user = user

    async def __aenter__(self) -> Caller:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def run(self) -> bytes:
        """One task; the body of its answer."""
        task = {"task_type": "route", "user_id": self._user, "request_id": uuid4().hex, "max_cost_cents": 0.0001}
        body = json.dumps({**task, "prompt": {"text": "hello"}})
        self._writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        assert b'"status":"success"' in answer, answer
        return answer


async def load(url: str, key: str, at_once: int, tasks: int) -> tuple[float, list[float]]:
    """Tasks a second, and each one's milliseconds."""
    left, took = iter(range(tasks)), []

    async def caller() -> None:
        async with Caller(url, key, str(uuid4())) as one:
            for _ in left:
                began = time.perf_counter()
                await one.run()
                took.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return tasks / (time.perf_counter() - began), took


def processes(stack: Stack) -> dict[str, list[psutil.Process]]:
    """The processes of a running system, by what they are."""
    found = {name: [psutil.Process(pid)] for name, pid in stack.ready["pids"].items()}
    for server, name in (("valkey", "valkey-server"), ("postgres", "postgres")):
        family = [one for one in psutil.process_iter(["name", "cmdline"]) if name in (one.info["name"] or "")]
        found[server] = [one for one in family if str(stack.data) in " ".join(ancestry(one))]
    return found


def ancestry(process: psutil.Process) -> list[str]:
    """Command line, working folder and parent's working folder: one of them names the data directory."""
    try:
        return [*process.cmdline(), process.cwd()]
    except psutil.Error:
        return []


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


def measure() -> list[Figure]:
    """Each concurrency, and at 64 where the CPU goes to."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder)) as stack:
        key, url = stack.key(stack.ready["tenant_id"]), stack.ready["gateway_url"]
        asyncio.run(load(url, key, 16, 500))
        for at_once in AT_ONCE:
            families = processes(stack)
            before = {name: cpu_s(family) for name, family in families.items()}
            rate, took = asyncio.run(load(url, key, at_once, TASKS[at_once]))
            time.sleep(1)
            spent = {name: (cpu_s(family) - before[name]) / TASKS[at_once] * 1e6 for name, family in families.items()}
            figures.append(Figure(f"chain over HTTP, {at_once} at once", f"{rate:.0f} tasks/s, {milliseconds(took)}"))
            shares = ", ".join(f"{name} {value:.0f}" for name, value in spent.items())
            figures.append(Figure(f"CPU a task, {at_once} at once (µs)", f"{shares}; sum {sum(spent.values()):.0f}"))
    return figures


if __name__ == "__main__":
    for figure in measure():
        print(f"{figure.what}: {figure.value}")
