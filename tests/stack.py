"""A running Skeldir, seen from outside: its ready file, its doors, its tables, and its processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import UUID, uuid4

import httpx
import psutil
import psycopg
import redis
import structlog
from psycopg.rows import dict_row
from redis.connection import parse_url

from shared.control_state import order_of
from shared.log_address import several_servers
from shared.partitions import CONTROL
from shared.streams.connection import connect
from skeldir.cli import main
from skeldir.keys import new_secret, publish_key

T = TypeVar("T")

# All connections may rest: httpx (0.28) closes surplus ones beside threads that are about to send on them.
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100)
START_S = 90.0
STOP_S = 60.0
# Longer than a machine that does other things, too, stands still: a service that cannot read its orders for so long
# stops calls. What it does then is tested where it is set.
STALENESS_MS = 5000
DECISIONS = ("task.allowed", "task.blocked")


def eventually(look: Callable[[], T | None], what: str, seconds: float = 30.0) -> T:
    """The first value of `look` that is something: no rows are none yet."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def in_a_thread(work: Callable[[], T]) -> T:
    """For work with an event loop of its own, where the caller has one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """Paused, as by a debugger or a virtual machine that moves; not dead."""
    assert all(pids), "each is a process that runs: 0 would be all of ours"
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def port_of(pid: int) -> int | None:
    """The port that this process listens on, once it does. A port that is chosen beforehand may be taken by then."""
    try:
        found = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return None
    return next((int(one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN), None)


class Stack:
    """`skeldir up` in a process of its own."""

    def __init__(self, directory: Path, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(trust_env=False, timeout=60, limits=LIMITS)
        self._bystander = ""

    def __enter__(self) -> Stack:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self.stop()

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def environment(self) -> dict[str, str]:
        """What a person's shell would have: nothing of ours but what the test sets."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SKELDIR_", "OPENAI_"))}
        ports = {f"SKELDIR_{name}_PORT": "0" for name in ("GATEWAY", "POLICY", "EXECUTOR", "LEDGER")}
        known = {"SKELDIR_DATA_DIR": str(self.data), "SKELDIR_CONTROL_STALENESS_MS": str(STALENESS_MS)}
        return {**clean, **ports, **known, **self._environment}

    def start(self) -> None:
        """Start it and wait for the ready file."""
        ready = self.directory / "ready.json"
        ready.unlink(missing_ok=True)
        log = (self.directory / "up.log").open("ab")
        command = [sys.executable, "-m", "skeldir", "up", "--data", str(self.data), "--ready-file", str(ready)]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True)
        log.close()
        process = self._process

        def is_ready() -> bool:
            assert process.poll() is None, self.logs()
            return ready.exists()

        eventually(is_ready, "the ready file", START_S)

    def stop(self) -> None:
        """Ctrl-C."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOP_S)

    def kill(self) -> None:
        """kill -9 of `up` itself."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def logs(self) -> str:
        """What it and its services said, the end of it."""
        files = [self.directory / "up.log", *sorted((self.data / "logs").glob("*.log"))]
        return "\n".join(f"== {file.name}\n{file.read_text()[-3000:]}" for file in files if file.exists())

    @property
    def ready(self) -> dict[str, Any]:
        """The ready file, as it is now."""
        found: dict[str, Any] = json.loads((self.directory / "ready.json").read_text())
        return found

    def pid(self, service: str) -> int:
        """Of a service, which may just be started again: then it has none for a moment."""
        return eventually(lambda: int(self.ready["pids"][service]) or None, f"{service} runs")

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `skeldir` command as a person does, but in this process, which saves a second or two of CPU.

        Processes of their own are `up` with its services, the demo, and what `tests/acceptance/test_up.py` calls.
        """
        done = self.cli_in(self.environment, *arguments)
        assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def cli_in(self, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, in another shell than a new one."""
        out, err = StringIO(), StringIO()

        def run() -> int:
            try:
                main()
            except SystemExit as ended:
                return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
            return 0

        logs = structlog.get_config()
        quiet = structlog.make_filtering_bound_logger(logging.ERROR)
        structlog.configure(wrapper_class=quiet, logger_factory=structlog.PrintLoggerFactory(err))
        try:
            with (
                patch.dict(os.environ, environment, clear=True),
                patch.object(sys, "argv", ["skeldir", *arguments]),
                patch("skeldir.cli.configure_logs"),
                redirect_stdout(out),
                redirect_stderr(err),
            ):
                code = run() if asyncio._get_running_loop() is None else in_a_thread(run)
        finally:
            structlog.configure(**logs)
        return subprocess.CompletedProcess(["skeldir", *arguments], code, out.getvalue(), err.getvalue())

    def order(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `skeldir` command that gives an order, and wait until it holds."""
        done = self.cli(*arguments)
        self.until_heard()
        return done

    def until_heard(self) -> None:
        """Until decisions are made by every order that was given before this: a service hears of one a moment later.

        A decision says which order it knew last; so a bystander's tasks are decided until that is the newest of now.
        """
        self._bystander = self._bystander or self.key(str(uuid4()), str(uuid4()))
        newest = order_of(self.redis().xrevrange(CONTROL, count=1)[0][0].decode())

        def is_heard() -> bool:
            task_id = self.run(key=self._bystander, prompt={"model": "stub:model"})["task_id"]
            lines = self.get(f"/v1/tasks/{task_id}/events", key=self._bystander).text.splitlines()
            events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
            decided = (one["data"]["control_position"] for one in events if one.get("type") in DECISIONS)
            return any(order_of(position) >= newest for position in decided)

        eventually(is_heard, "policy knows the orders")

    def process(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a `skeldir` command in a process of its own."""
        command = [sys.executable, "-m", "skeldir", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environment, timeout=seconds, check=False
        )

    def refused(self, *arguments: str) -> str:
        """What a command that must not be taken says: one line, and code 2."""
        done = self.cli(*arguments, check=False)
        assert done.returncode == 2, (done.returncode, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done.stderr

    def post(self, path: str, body: Any, *, key: str | None = None, **headers: str) -> httpx.Response:
        """POST to the gateway with the producer's key, or another."""
        sent = {"Authorization": f"Bearer {key or self.ready['api_key']}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._client.post(f"{self.ready['gateway_url']}{path}", content=content, headers=sent)

    def get(self, path: str, *, key: str | None = None, base: str = "gateway_url") -> httpx.Response:
        """GET from the gateway (or the ledger)."""
        headers = {"Authorization": f"Bearer {key or self.ready['api_key']}"}
        return self._client.get(f"{self.ready[base]}{path}", headers=headers)

    def run(self, task_type: str = "route", *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Submit a task on the stub and wait for its end."""
        prompt = fields.pop("prompt", {})
        body = {"task_type": task_type, "request_id": fields.pop("request_id", str(uuid4())), **fields}

        def answer() -> httpx.Response | None:
            """A log of several servers says no while a replica stands still: then as every client does, again."""
            reply = self.post("/v1/tasks", {**body, "prompt": prompt}, key=key, Prefer="wait=30")
            again = reply.status_code == 503 and several_servers(self.ready["redis_url"]) is not None
            return None if again else reply

        reply = eventually(answer, "an answer")
        assert reply.status_code == 200, reply.text
        result: dict[str, Any] = reply.json()
        return result

    def readable(self, result: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """A task as the read API shows it: its texts decrypted."""
        reply = self.get(f"/v1/calls/{result['task_id']}", key=key, base="ledger_url")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def key(self, tenant: str, user: str | None = None, role: str = "producer") -> str:
        """A new key, usable at once; published as `skeldir key create` does it."""
        secret = new_secret()

        async def publish() -> None:
            async with connect(self.ready["redis_url"], client_name="test") as log:
                await publish_key(log, secret, UUID(tenant), UUID(user) if user else None, role, actor="test")

        asyncio.run(publish())
        eventually(lambda: self.get("/v1/models", key=secret).status_code == 200, "the key is known")
        return secret

    def redis(self) -> Any:
        """The log, as its administrator."""
        url = self.ready["redis_url"]
        if url.startswith("redis+cluster:"):
            return redis.RedisCluster.from_url(url.replace("+cluster", "").partition(",")[0])
        if (address := several_servers(url)) is not None:
            given = parse_url(address.server(*address.hosts[0]))
            watchers = redis.Sentinel(list(address.hosts), socket_timeout=1)
            return watchers.master_for(address.service, username=given["username"], password=given["password"])
        return redis.Redis.from_url(url)

    def rows(self, query: str, tenant: str | None, user: str | None, timezone: str = "UTC") -> list[dict[str, Any]]:
        """A query as app_user with the two settings, as `psql` would."""
        with psycopg.connect(self.ready["database_url"], row_factory=dict_row) as connection:
            given = {"app.current_tenant_id": tenant, "app.current_user_id": user, "timezone": timezone}
            for name, value in given.items():
                if value is not None:
                    connection.execute("SELECT set_config(%s, %s, false)", [name, value])
            return connection.execute(query.encode()).fetchall()

    def call(self, result: dict[str, Any], tenant: str | None = None, user: str | None = None) -> dict[str, Any]:
        """The task's ledger row, once the books have its end and the end of its reservation, which is another event."""
        tenant, user = tenant or self.ready["tenant_id"], user or self.ready["user_id"]
        reservations = "SELECT FROM llm_budget_reservations AS r WHERE r.api_call_id = c.id AND r.state"
        query = (
            f"SELECT * FROM llm_api_calls AS c WHERE id = '{result['task_id']}' AND status <> 'pending' "
            f"AND (status = 'blocked' OR EXISTS ({reservations} <> 'reserved')) "
            f"AND NOT EXISTS ({reservations} = 'reserved')"
        )
        return eventually(lambda: next(iter(self.rows(query, tenant, user)), None), "the ledger row")
