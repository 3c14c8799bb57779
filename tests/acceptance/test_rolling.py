"""Each service is replaced by another process of it while clients go on: none of them sees an error."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product
from uuid import uuid4

import httpx
import pytest

from tests.load import Load
from tests.stack import Stack, eventually, port_of

PARTITIONS = 4
START_S = 90.0
LOOK_S = 0.1
HOLD_S = 30.0
"""So long a connection waits for a server that is ready: while the machine stands still, none looks so."""
# A checkout of an older release: then the processes that are replaced are of it (`git worktree add /tmp/older v1`).
OLDER = os.environ.get("SKELDIR_TEST_OLDER_RELEASE")


class Balancer:
    """A TCP balancer: a new connection goes to a server that says it is ready, each in turn."""

    def __init__(self, servers: list[int]) -> None:
        self.servers = servers
        self.ready: list[int] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.port = 0

    def __enter__(self) -> Balancer:
        self._thread.start()
        assert self._started.wait(10)
        eventually(lambda: len(self.ready) == len(self.servers), "it has found the servers")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        looking = asyncio.create_task(self._look())
        self._started.set()
        await self._stop.wait()
        looking.cancel()
        server.close()

    async def _look(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            while True:
                ready = []
                for port in list(self.servers):
                    with suppress(httpx.HTTPError):
                        reply = await client.get(f"http://127.0.0.1:{port}/readyz", headers={"Connection": "close"})
                        ready += [port] if reply.status_code == 200 else []
                self.ready = ready
                await asyncio.sleep(LOOK_S)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        until = asyncio.get_running_loop().time() + HOLD_S
        while asyncio.get_running_loop().time() < until:
            for port in list(self.ready):
                with suppress(OSError):
                    there = await asyncio.open_connection("127.0.0.1", port)
                    self.ready.sort(key=lambda one, last=port: one == last)  # type: ignore[misc]
                    await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
                    return
            await asyncio.sleep(LOOK_S)
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Process:
    """`skeldir serve`, as an init system or Kubernetes runs it."""

    def __init__(self, stack: Stack, service: str, release: str | None = None) -> None:
        environment = stack.environment | {
            "SKELDIR_REDIS_URL": stack.ready["redis_url"],
            "SKELDIR_DATABASE_URL": stack.ready["database_url"],
            f"SKELDIR_{service.upper()}_PORT": "0",
        }
        self._log = stack.directory / f"{service}-{uuid4()}.log"
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "skeldir", "serve", service]  # of the folder, before what is installed
            self._process = subprocess.Popen(command, cwd=release, env=environment, stdout=log, stderr=log)

    @property
    def port(self) -> int:
        """Where it listens; 0 while it does not."""
        return port_of(self._process.pid) or 0

    def until_ready(self) -> Process:
        """Itself, ready."""
        eventually(lambda: is_ready(self.port), f"{self._log.name} says that it is ready", START_S)
        return self

    def knows(self, key: str) -> bool:
        """Whether this gateway takes the key."""
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.get(f"http://127.0.0.1:{self.port}/v1/models", headers=headers, trust_env=False).is_success

    def stop(self) -> None:
        """SIGTERM; it is to end by itself, and in good order."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self._log.read_text()[-2000:]

    def kill(self) -> None:
        """Whatever became of it."""
        self._process.kill()
        self._process.wait()


def is_ready(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    return False


@pytest.mark.timeout(400)  # eight processes start, one after another
def test_every_service_is_replaced_and_no_client_sees_an_error(new_stack: Callable[..., Stack]) -> None:
    """A rolling upgrade: of each service a second process, then the first one goes. `up` starts its own ones again."""
    stack = new_stack()
    processes: list[Process] = []

    def start(service: str, release: str | None = None) -> Process:
        processes.append(Process(stack, service, release))
        return processes[-1]

    def restart_of_up(service: str) -> None:
        before = stack.pid(service)
        os.kill(before, signal.SIGTERM)
        eventually(lambda: stack.ready["pids"][service] not in (0, before), f"`up` started {service} again")

    try:
        first, second, policy, executor = [start(name, OLDER) for name in ("gateway", "gateway", "policy", "executor")]
        for one in processes:
            one.until_ready()
        with Balancer([first.port, second.port]) as balancer:
            load = Load(stack, PARTITIONS, gateway=f"http://127.0.0.1:{balancer.port}", simulated_delay_ms=200)
            for key, gateway in product(load.keys.values(), (first, second)):
                eventually(partial(gateway.knows, key), "the gateway knows the key")
            with load.running(clients_each=2):
                load.until_all_have(3)
                first.stop()
                third = start("gateway").until_ready()
                balancer.servers = [second.port, third.port]
                eventually(lambda: third.port in balancer.ready, "the balancer has found the new gateway")
                second.stop()
                load.until_all_have(3)
                for service, other in (("policy", policy), ("executor", executor)):
                    restart_of_up(service)
                    load.until_all_have(3)
                    eventually(lambda name=service: is_ready(port_of(stack.pid(name)) or 0), "it is back")  # type: ignore[misc]
                    other.stop()
                    load.until_all_have(3)
                restart_of_up("ledger")
                load.until_all_have(3)
    finally:
        for one in processes:
            one.kill()
    eventually(load.is_booked, "each task has one end in the books", 60)
    longest = max(load.longest_gap(tenant) for tenant in load.users)
    print(f"\n{sum(map(len, load.ends.values()))} tasks; the longest time without an end of a tenant: {longest:.1f} s")
    verified = stack.cli("ledger", "verify", "--history", check=False)
    assert verified.returncode == 0, verified.stdout
