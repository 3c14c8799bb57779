"""Each service with one, two and four processes: tasks a second where there are cores, CPU a task where there are not.

Four partitions: each has one process of policy's and of the ledger's that decides it, or writes it; gateways and
executors share all of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import psutil

from skeldir.embedded.process import free_port
from tests.bench.alone import ROOMY, entry
from tests.bench.chain import Chain, Spending
from tests.bench.figures import Figure, rate, spread
from tests.bench.processes import SERVICES
from tests.stack import Stack, eventually

PROCESSES = (1, 2, 4)
START_S = 60.0
LEADS = {"policy": "skeldir_policy_partitions_led", "ledger": "skeldir_ledger_leads"}


def measure(tasks: int = 1000, turns: int = 3) -> list[Figure]:
    """Tasks from the inbox to the books."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder), ROOMY) as stack:
        chain = Chain(stack)
        chain.warm()
        return [
            figure
            for service in SERVICES
            for number in PROCESSES
            for figure in _with(stack, chain, service, number, tasks, turns)
        ]


def _with(stack: Stack, chain: Chain, service: str, number: int, tasks: int, turns: int) -> list[Figure]:
    rates, spent = [], list[dict[str, float]]()
    with _more(stack, service, number - 1) as others:
        for _ in range(turns):
            entries = [entry(chain.tenants[one % len(chain.tenants)], str(uuid4())) for one in range(tasks)]
            with Spending(stack, spent, tasks, {service: others}):
                rates.append(chain.through(entries, 5 * tasks))
    used = spread([turn[service] for turn in spent])
    what = f"{number} of {service}"
    cpu = Figure(f"{what}: its CPU a task", f"{used.of()} µs", numbers={f"{service}_us": used.median})
    return [rate(f"inbox to books, {what}", "tasks", rates), cpu]


@contextmanager
def _more(stack: Stack, service: str, number: int) -> Iterator[list[psutil.Process]]:
    """More processes of a service, beside the one that `up` runs."""
    ports = [free_port() for _ in range(number)]
    processes = [_start(stack, service, port) for port in ports]
    try:
        for port in ports:
            eventually(partial(_is_ready, port), f"another {service} is ready", START_S)
        if metric := LEADS.get(service):
            eventually(partial(_all_lead, ports, metric), f"every {service} leads a partition", START_S)
        yield [psutil.Process(one.pid) for one in processes]
    finally:
        for one in processes:
            one.terminate()
        for one in processes:
            one.wait(START_S)


def _start(stack: Stack, service: str, port: int) -> subprocess.Popen[bytes]:
    environment = stack.environment | {
        "SKELDIR_REDIS_URL": stack.ready["redis_url"],
        "SKELDIR_DATABASE_URL": stack.ready["admin_database_url"],
        f"SKELDIR_{service.upper()}_PORT": str(port),
    }
    command = [sys.executable, "-m", "skeldir", "serve", service]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _all_lead(ports: list[int], metric: str) -> bool:
    """Whether leases have spread over the new processes."""
    pages = [httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text for port in ports]
    return all(
        any(line.startswith(f"{metric} ") and line != f"{metric} 0.0" for line in page.splitlines()) for page in pages
    )


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    for figure in measure():
        print(figure)
