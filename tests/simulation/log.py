"""The log server in memory: streams, the lease, and the scripts, each as one atomic step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.executor.delivery import Delivery
from shared.events.envelope import Envelope
from shared.events.results import END_EVENTS
from shared.events.tasks import TaskSubmitted
from shared.partitions import Partition
from shared.streams.lease import Command, Fenced

PARTITION = Partition(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry. Ids count up over all streams."""

    number: int
    data: bytes
    at_ms: int

    @property
    def entry_id(self) -> str:
        return f"{self.number}-0"


@dataclass
class Log:
    """Everything that survives a crash of every service."""

    now_ms: int
    streams: dict[str, list[Entry]] = field(default_factory=lambda: {"tasks": [], "decisions": [], "outcomes": []})
    control: list[tuple[str, bytes]] = field(default_factory=list)
    hashes: dict[str, dict[str, Any]] = field(default_factory=dict)
    strings: dict[str, bytes] = field(default_factory=dict)
    delivered: int = 0
    pending: dict[int, tuple[str, int]] = field(default_factory=dict)
    counter: int = 0

    def append(self, stream: str, data: bytes) -> None:
        """XADD."""
        self.counter += 1
        self.streams[stream].append(Entry(self.counter, data, self.now_ms))

    def after(self, stream: str, number: int, count: int) -> list[Entry]:
        """XREAD without blocking."""
        found = self.streams[stream]
        start = next((at for at in range(len(found) - 1, -1, -1) if found[at].number <= number), -1) + 1
        return found[start : start + count]

    def record(self, task_id: Any) -> dict[str, Any]:
        """The hash of one task."""
        return self.hashes.setdefault(PARTITION.task(task_id), {})

    # accept.lua
    def accept(self, event: Envelope) -> str:
        """Claim and append a task, once."""
        submitted = event.data
        assert isinstance(submitted, TaskSubmitted)
        record = self.record(submitted.task.task_id)
        if "fingerprint" in record:
            return "duplicate" if record["fingerprint"] == submitted.task.fingerprint else "conflict"
        record.update(fingerprint=submitted.task.fingerprint, state="submitted")
        self.append("tasks", event.to_json())
        return "accepted"

    # lease.lua
    def lease(self, owner: str, ttl_ms: int, how: str) -> int:
        """Take (with a new token) or renew; 0 while another owner holds it, or where there is none to renew."""
        held = self.hashes.setdefault(PARTITION.lease("policy"), {"owner": "", "expires_ms": 0, "token": 0})
        alive = held["expires_ms"] > self.now_ms
        if (alive and held["owner"] != owner) or (how == "renew" and not held["token"]):
            return 0
        if not (alive and how == "renew"):
            held["token"] += 1
            held["owner"] = owner
        held["expires_ms"] = self.now_ms + ttl_ms
        return int(held["token"])

    # fenced.lua
    def fenced(self, owner: str, token: int, commands: Iterable[Command]) -> None:
        """Run the commands that `services.policy.commit` made, if the owner's token still holds."""
        held = self.hashes[PARTITION.lease("policy")]
        if (held["token"], held["owner"]) != (token, owner):
            raise Fenced("another writer has the lease")
        for name, key, *words in commands:
            match name:
                case "XADD":
                    self.append(str(key).rsplit(":", 1)[1], _bytes(words[words.index("data") + 1]))
                case "SET":
                    self.strings[str(key)] = _bytes(words[0])
                case "HSET":
                    pairs = dict(zip(map(str, words[::2]), words[1::2], strict=True))
                    self.hashes.setdefault(str(key), {}).update(pairs)
                case "HDEL":
                    for word in words:
                        self.hashes.get(str(key), {}).pop(str(word), None)
                case "PEXPIRE":
                    pass  # records outlive the history
                case other:
                    raise AssertionError(f"the simulated log does not know {other!r}")

    # XREADGROUP, XAUTOCLAIM, XCLAIM, XACK on decisions
    def group_read(self, consumer: str, count: int) -> list[Entry]:
        """Entries that nobody was given yet."""
        found = self.after("decisions", self.delivered, count)
        for entry in found:
            self.pending[entry.number] = (consumer, self.now_ms)
            self.delivered = entry.number
        return found

    def claim(self, consumer: str, idle_ms: int, count: int) -> list[Entry]:
        """Deliveries that were not touched for so long."""
        old = [number for number, (_, at) in self.pending.items() if self.now_ms - at >= idle_ms][:count]
        for number in old:
            self.pending[number] = (consumer, self.now_ms)
        return [entry for entry in self.streams["decisions"] if entry.number in old]

    def own(self, consumer: str) -> list[Entry]:
        """Deliveries in this consumer's name."""
        mine = {number for number, (who, _) in self.pending.items() if who == consumer}
        return [entry for entry in self.streams["decisions"] if entry.number in mine]

    def keep(self, consumer: str, numbers: Iterable[int]) -> None:
        """They are still in work here."""
        for number in numbers:
            if number in self.pending:
                self.pending[number] = (consumer, self.now_ms)

    def acknowledge(self, numbers: Iterable[int]) -> None:
        """They are done."""
        for number in numbers:
            self.pending.pop(number, None)

    # begin.lua
    def begin(self, delivery: Delivery, executor: str, attempt_no: int, event: Envelope) -> tuple[str, str]:
        """Record an attempt before its call."""
        record = self.record(delivery.allowed.task.task_id)
        if over := self._over(delivery, record):
            return over, ""
        first = record["state"] == "allowed" and attempt_no == 1
        mine = record["state"] == "attempting" and record.get("owner") == executor
        if not first and not (mine and record["attempts"] + 1 == attempt_no):
            return "attempting", str(record.get("owner", ""))
        record.update(state="attempting", owner=executor, attempts=attempt_no)
        self.append("outcomes", event.to_json())
        return "begun", ""

    # finish.lua
    def finish(self, delivery: Delivery, owner: str, event: Envelope, *, lost: bool = False) -> tuple[str, str]:
        """End a delivery: event, result and acknowledgement in one step."""
        record = self.record(delivery.allowed.task.task_id)
        if over := self._over(delivery, record):
            return over, ""
        unattempted = record["state"] == "allowed" and owner == ""
        attempted = record["state"] == "attempting" and record.get("owner") == owner
        if not unattempted and not attempted:
            return str(record["state"]), str(record.get("owner", ""))
        self.append("outcomes", event.to_json())
        record["state"] = "ended" if event.type in END_EVENTS else "expired"
        record["lost"] = record.get("lost", 0) + int(lost)
        self.acknowledge([int(delivery.entry_id.split("-")[0])])
        return "done", ""

    def _over(self, delivery: Delivery, record: Mapping[str, Any]) -> str:
        """Why nothing is left to do for this decision, if so; it is then acknowledged."""
        if record.get("decision") == str(delivery.decision_id) and record.get("state") not in ("ended", "expired"):
            return ""
        self.acknowledge([int(delivery.entry_id.split("-")[0])])
        return str(record["state"]) if record.get("decision") == str(delivery.decision_id) else "superseded"


def _bytes(word: Any) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()
