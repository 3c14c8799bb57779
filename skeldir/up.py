"""`skeldir up`: servers, migrations and the four services as processes, watched, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import httpx
from alembic.util import CommandError as AlembicError
from sqlalchemy.exc import SQLAlchemyError

from services.ledger import migrate
from services.ledger.archive.archiving import check_folder
from services.ledger.archive.record import ArchiveProblem
from services.ledger.chain.seal import new_key, public_pem, read_private
from services.ledger.continuity import Standing
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.control_reader import ControlReader
from shared.streams.partition_count import WrongCount, look
from shared.texts.master_key import new_master_key
from skeldir import running
from skeldir.configured import HalfConfigured, check_roles, require_database
from skeldir.embedded import EmbeddedPostgres, EmbeddedValkey
from skeldir.embedded.process import ServerFailed, free_port
from skeldir.keys import publish_key, sha256_of
from skeldir.private_file import write_private
from skeldir.restoring.survey import ADVICE, how_it_stands
from skeldir.running import MASTER_KEY, SEAL_KEY, SEAL_PUBLIC_KEY

SERVICES = ("gateway", "policy", "executor", "ledger")
ARCHIVE, ARCHIVE_HOURS = "archive", "24"
NOT_ARCHIVING = {
    f"SKELDIR_{name}"
    for name in ("REDIS_URL", "DATABASE_URL", "DATABASE_READ_URL", "LEDGER_DATABASE_URL", "WEBHOOK_SECRET_KEY")
}
# A machine that does other things, too, takes half of that; a service that ends is told of at once.
READY_S = 60.0
# Beyond the time that a service has for its work in hand.
STOP_S = 4.0
WATCH_S = 0.1
FIRST_BACKOFF_S = 0.1
MOST_BACKOFF_S = 5.0
HEALTHY_AFTER_S = 10.0

Say = Callable[[str], None]


class UpFailed(RuntimeError):
    """The system did not come up; the text says what to look at."""


@dataclass
class Child:
    """One service process, and when it may be started again."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    backoff_s: float = FIRST_BACKOFF_S
    start_after: float = 0.0

    async def start(self) -> None:
        """Start the process; its log is appended to."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "skeldir", *self.arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True,
            )  # fmt: skip
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int:
        return self.process.pid if self.process and self.process.returncode is None else 0


@dataclass
class System:
    """What `up` runs."""

    settings: Settings
    data_dir: Path
    ready_file: Path | None
    say: Say
    valkey: EmbeddedValkey | None = None
    postgres: EmbeddedPostgres | None = None
    children: dict[str, Child] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    facts: running.Running | None = None

    async def start(self) -> running.Running:
        """Bring everything up. Raises UpFailed, OSError, RedisError."""
        try:
            require_database(self.settings)
            if self.settings.archive_after_months is not None and self.settings.archive_dir is not None:
                check_folder(self.settings.archive_dir)
        except (HalfConfigured, ArchiveProblem) as error:
            raise UpFailed(str(error)) from error
        if self.ready_file is not None and self.ready_file.is_dir():  # said now, not when all is up
            raise UpFailed(f"--ready-file is a file; {self.ready_file} is a folder")
        self._refuse_taken_ports()
        try:
            (self.data_dir / "logs").mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(self._start_servers)
        except OSError as error:
            what = f"state cannot be kept in {self.data_dir}: {error.strerror}: {error.filename}"
            raise UpFailed(f"{what}; --data names another folder") from error
        self.say("servers are up")
        await asyncio.to_thread(self._migrate)
        self.say("database is migrated")
        await self._refuse_lost_log()
        identity = await self._identity()
        for name in SERVICES:
            wanted = getattr(self.settings, f"{name}_port")
            taken = wanted and not _is_free(wanted)
            self.ports[name] = free_port() if taken or not wanted else wanted
            if taken:
                self.say(f"port {wanted} is in use: {name} takes {self.ports[name]}")
            await self._start(name, ("serve", name), self._environment(name, identity["webhook_secret_key"]))
        if self.settings.archive_after_months is not None:
            await self._start(ARCHIVE, ("ledger", "archive", "--every-hours", ARCHIVE_HOURS), self._as_owner())
        self.facts = self._facts(identity)
        await self._until_ready()
        self._publish()
        return self.facts

    def _refuse_taken_ports(self) -> None:
        """Who asks for a port by its setting gets that one, or is told. Raises UpFailed."""
        for name in SERVICES:
            setting = f"{name}_port"
            wanted = getattr(self.settings, setting)
            if wanted and setting in self.settings.model_fields_set and not _is_free(wanted):
                what_to_do = f"SKELDIR_{setting.upper()} names another, 0 takes a free one"
                raise UpFailed(f"port {wanted} is in use, so {name} cannot have it: {what_to_do}")

    async def _start(self, name: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        child = Child(name, arguments, environment, self.data_dir / "logs" / f"{name}.log")
        self.children[name] = child
        await child.start()

    async def watch(self, stop: asyncio.Event) -> None:
        """Start again what dies, until `stop` is set. A server that takes long over it keeps no service waiting."""
        starting: dict[str, asyncio.Task[None]] = {}
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await stop.wait()
            for name, server in (("Valkey", self.valkey), ("PostgreSQL", self.postgres)):
                if name in starting and not starting[name].done():
                    continue
                if server is not None and not server.running:
                    starting[name] = asyncio.create_task(self._revive_server(name, server))
            for child in self.children.values():
                await self._revive(child)
        for task in starting.values():
            task.cancel()  # `stop` ends the server, and with it whoever still waits for it

    async def stop(self) -> None:
        """Stop services, then servers."""
        for child in self.children.values():
            if child.pid:
                child.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        await asyncio.gather(*(self._end(child) for child in self.children.values()))
        for server in (self.postgres, self.valkey):
            if server is not None:
                await asyncio.to_thread(server.stop)
        running.forget(*running.ready_files(self.data_dir, self.ready_file), running.pointer())

    def _start_servers(self) -> None:
        if self.settings.redis_url is None:
            self.valkey = EmbeddedValkey(
                self.data_dir, durability=self.settings.durability, memory_mb=self.settings.embedded_memory_mb
            )
            self.valkey.start()
        if self.settings.database_url is None:
            self.postgres = EmbeddedPostgres(self.data_dir)
            self.postgres.start()

    def _migrate(self) -> None:
        try:
            migrate.upgrade(self._database("skeldir_owner", self.settings.admin_database_url))
        except (SQLAlchemyError, AlembicError) as error:
            raise UpFailed(f"the database cannot be migrated: {error}") from error
        if self.postgres is None:
            try:
                for warning in check_roles(self.settings):
                    self.say(warning)
            except HalfConfigured as error:
                raise UpFailed(str(error)) from error

    async def _refuse_lost_log(self) -> None:
        """Before the first order is written on it: a log that was lost looks like a new one."""
        redis = connect(self._redis("admin"), client_name="skeldir-up")
        url = self._database("skeldir_ledger", self.settings.ledger_database_url)
        try:
            standing = await how_it_stands(redis, url, await look(redis, self.settings))
        except WrongCount as error:
            raise UpFailed(str(error)) from error
        finally:
            await redis.aclose()
        if standing is Standing.LOST:
            raise UpFailed(f"{ADVICE[standing]} (docs/runbooks/restore.md)")
        if standing is not Standing.WHOLE:
            self.say(f"warning: {ADVICE[standing]} (docs/runbooks/restore.md)")

    def _redis(self, role: str) -> str:
        if self.valkey is not None:
            return self.valkey.url(role)
        assert self.settings.redis_url is not None
        return self.settings.redis_url

    def _database(self, role: str, configured: str | None = None) -> str:
        if self.postgres is not None:
            return self.postgres.url(role)
        assert self.settings.database_url is not None
        return configured or self.settings.database_url

    def _environment(self, name: str, webhook_key: str) -> dict[str, str]:
        """A service's environment: its own role on both servers, its port, and whose child it is."""
        database = {"gateway": "app_user", "ledger": "skeldir_ledger"}.get(name)
        found = {
            **os.environ,
            "SKELDIR_REDIS_URL": self._redis(name),
            f"SKELDIR_{name.upper()}_PORT": str(self.ports[name]),
            "SKELDIR_OWNER_PID": str(os.getpid()),
        }
        found.pop("SKELDIR_WEBHOOK_SECRET_KEY", None)
        if name in ("gateway", "ledger"):  # who shows a webhook's secret, once, and who signs
            found["SKELDIR_WEBHOOK_SECRET_KEY"] = webhook_key
        found.pop("SKELDIR_ADMIN_DATABASE_URL", None)
        found.pop("SKELDIR_LEDGER_DATABASE_URL", None)
        found.pop("SKELDIR_DATABASE_URL", None)
        if name != "ledger":
            found.pop("SKELDIR_DATABASE_READ_URL", None)
        else:
            found["SKELDIR_GATEWAY_URL"] = f"http://{self.settings.gateway_host}:{self.ports['gateway']}"
        if database is not None:
            own = self.settings.ledger_database_url if name == "ledger" else None
            found["SKELDIR_DATABASE_URL"] = self._database(database, own)
        has_master = self.settings.master_key_file is not None or self.settings.master_key_command is not None
        if name in ("gateway", "ledger") and self.postgres is not None and not has_master:
            found["SKELDIR_MASTER_KEY_FILE"] = str(self._master_key())  # who reads texts, and who writes them
        if name == "ledger" and self.settings.seal_key_file is None:
            found["SKELDIR_SEAL_KEY_FILE"] = str(self._seal_key())
        return found

    def _as_owner(self) -> dict[str, str]:
        """The environment of who archives: the database's owner, and the ledger's key for seals. No log server."""
        found = {name: value for name, value in os.environ.items() if name not in NOT_ARCHIVING}
        found["SKELDIR_ADMIN_DATABASE_URL"] = self._database("skeldir_owner", self.settings.admin_database_url)
        found["SKELDIR_SEAL_KEY_FILE"] = str(self.settings.seal_key_file or self._seal_key())
        found["SKELDIR_OWNER_PID"] = str(os.getpid())
        return found

    def _master_key(self) -> Path:
        """The key of this data directory's texts: made once."""
        file = (self.data_dir / MASTER_KEY).resolve()
        if not file.exists():
            write_private(file, new_master_key())
        return file

    def _seal_key(self) -> Path:
        """The key of this data directory: made once, with the public one beside it for whoever checks."""
        file = (self.data_dir / SEAL_KEY).resolve()
        if not file.exists():
            write_private(file, new_key())
        public = public_pem(read_private(file).public_key())
        write_private(file.with_name(SEAL_PUBLIC_KEY), public)
        return file

    async def _identity(self) -> dict[str, str]:
        """The first tenant, user and keys: made once, kept in the data directory."""
        file = self.data_dir / "identity.json"
        if file.exists():
            identity: dict[str, str] = json.loads(file.read_text())
        else:
            identity = {
                "tenant_id": str(uuid4()),
                "user_id": str(uuid4()),
                "api_key": f"sk-skeldir-{secrets.token_urlsafe(32)}",
                "operator_key": f"sk-skeldir-{secrets.token_urlsafe(32)}",
            }
        if "webhook_secret_key" not in identity:
            identity["webhook_secret_key"] = secrets.token_urlsafe(32)
            write_private(file, json.dumps(identity, indent=1))
        if self.settings.webhook_secret_key is not None:
            identity["webhook_secret_key"] = self.settings.webhook_secret_key.get_secret_value()
        redis = connect(self._redis("admin"), client_name="skeldir-up", min_replicas=self.settings.min_replicas)
        try:
            control = ControlReader(redis, self.settings.control_staleness_ms)
            await control.catch_up()
            tenant, user = UUID(identity["tenant_id"]), UUID(identity["user_id"])
            for name, role, of_user in (("api_key", "producer", user), ("operator_key", "operator", None)):
                if sha256_of(identity[name]) not in control.state.keys:
                    await publish_key(redis, identity[name], tenant, of_user, role, actor="skeldir up")
        finally:
            await redis.aclose()
        return identity

    def _facts(self, identity: dict[str, str]) -> running.Running:
        return running.Running(
            gateway_url=f"http://{self.settings.gateway_host}:{self.ports['gateway']}",
            ledger_url=f"http://{self.settings.ledger_host}:{self.ports['ledger']}",
            redis_url=self._redis("admin"),
            database_url=self._database("app_user"),
            admin_database_url=self._database("postgres", self.settings.admin_database_url),
            ledger_database_url=self._database("skeldir_ledger", self.settings.ledger_database_url),
            pids={name: child.pid for name, child in self.children.items()},
            supervisor_pid=os.getpid(),
            data_dir=str(self.data_dir.resolve()),
            **identity,
        )

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        waiting = dict.fromkeys(SERVICES, "does not answer")
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            while waiting:
                for name in list(waiting):
                    child = self.children[name]
                    if not child.pid:
                        raise UpFailed(f"{name} ended while it started; see {child.log}")
                    # What is no host for a URL is none to listen on: the service ends, and says so.
                    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
                        host = getattr(self.settings, f"{name}_host")
                        reply = await client.get(f"http://{host}:{self.ports[name]}/readyz")
                        if reply.status_code == 200:
                            del waiting[name]
                            self.say(f"{name} is ready")
                            continue
                        waiting[name] = reply.text
                if waiting and time.monotonic() > deadline:
                    name, problem = next(iter(waiting.items()))
                    raise UpFailed(
                        f"{name} is not ready after {READY_S:.0f} s: {problem}; see {self.children[name].log}"
                    )
                await asyncio.sleep(0.02)

    def _publish(self) -> None:
        """Write the ready file, with the process ids of now."""
        assert self.facts is not None
        self.facts.pids = {name: child.pid for name, child in self.children.items()}
        try:
            running.write(self.facts, *running.ready_files(self.data_dir, self.ready_file))
        except OSError as error:
            raise UpFailed(f"the ready file cannot be written: {error.strerror}: {error.filename}") from error
        with contextlib.suppress(OSError):  # a user without a home: commands find it by the data directory alone
            running.write(self.facts, running.pointer())

    async def _revive_server(self, name: str, server: EmbeddedValkey | EmbeddedPostgres) -> None:
        """One that does not start (it was killed meanwhile, the disk is full) is tried again, as services are."""
        self.say(f"{name} ended; it is started again")
        try:
            await asyncio.to_thread(server.start)
        except (ServerFailed, OSError) as error:
            self.say(f"{error}; it is tried again")
            await asyncio.sleep(MOST_BACKOFF_S)

    async def _revive(self, child: Child) -> None:
        now = time.monotonic()
        if child.pid:
            return
        if not child.start_after:
            if now - child.started_at > HEALTHY_AFTER_S:
                child.backoff_s = FIRST_BACKOFF_S
            child.start_after = now + child.backoff_s
            child.backoff_s = min(MOST_BACKOFF_S, child.backoff_s * 2)
            self.say(f"{child.name} ended; it is started again")
        if now >= child.start_after:
            child.start_after = 0.0
            await child.start()
            self._publish()

    async def _end(self, child: Child) -> None:
        if child.process is None:
            return
        try:
            async with asyncio.timeout(self.settings.drain_seconds + STOP_S):
                await child.process.wait()
        except TimeoutError:
            child.process.kill()
            await child.process.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
