"""Each service alone, on streams that are full: the others stand still. Beside it, in the same turns, what the servers
and the language do without it (`floors`).

A turn takes tasks through the system one service at a time: the gateway takes them from the inbox, policy decides, the
executor asks the stub, policy settles, the ledger writes. `of`: the tasks of a turn.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

from shared.partitions import INBOX, Partition, partition_of
from tests.bench import floors
from tests.bench.figures import Figure, in_turns, rate, spread
from tests.bench.processes import cpu_s, families, frozen, let_go
from tests.stack import Stack

PARTITIONS = 4
TENANTS = 20
EVENTS_A_TASK = 5
AT_ONCE = 1000
ENOUGH_S, LOOK_S = 120.0, 0.005
LIMITS = {"append": "appends", "loop": "read, append, acknowledge", "copy": "COPY"}
LIMIT_OF = {
    "gateway": ("gateway", "append"),
    "policy": ("policy", "loop"),
    "executor": ("executor", "loop"),
    "settle": ("policy", "loop"),
    "ledger": ("ledger", "copy"),
}
# Nothing is to refuse a task; nothing grows old while a service stands still.
ROOMY = {
    "SKELDIR_HOURLY_SHUTOFF_CENTS": "9000000",
    "SKELDIR_MONTHLY_CAP_CENTS": "9000000",
    "SKELDIR_MAX_IN_FLIGHT": "1000000",
    "SKELDIR_DECISION_TTL_MS": "3600000",
    "SKELDIR_CONTROL_STALENESS_MS": "3600000",
}


def measure(tasks: int = 4000, turns: int = 3) -> list[Figure]:
    """Rates of each stage beside its limit, and its CPU a task."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder), ROOMY) as stack:
        one = OneByOne(stack, tasks)
        with frozen(stack):
            one.turn()  # everything is loaded, every account has its first task
            one.spent.clear()
            found = in_turns(one.works(), turns)
    return [
        rate("appends by redis-py, pipelined", "entries", found["append"]),
        rate("read, append, acknowledge by redis-py, pipelined", "entries", found["loop"]),
        rate("COPY of events by asyncpg", "rows", found["copy"]),
        rate("gateway alone, from the inbox", "tasks", found["gateway"], "appends", found["append"]),
        rate("policy alone, decides", "tasks", found["policy"], "read, append, acknowledge", found["loop"]),
        rate("executor alone, on the stub", "tasks", found["executor"], "read, append, acknowledge", found["loop"]),
        rate("policy alone, settles", "tasks", found["settle"], "read, append, acknowledge", found["loop"]),
        rate("ledger alone", "events", found["ledger"], "COPY", found["copy"]),
        *(_cpu(one.spent, stage, *of) for stage, of in LIMIT_OF.items()),
    ]


def _cpu(spent: dict[str, list[dict[str, float]]], stage: str, service: str, limit: str) -> Figure:
    """Microseconds of a task, of the service and of the servers that it speaks to; and the limit's part of that."""
    numbers = {name: spread([turn[name] for turn in spent[stage]]).median for name in spent[stage][0]}
    text = ", ".join(f"{name} {value:.0f}" for name, value in numbers.items())
    of = [bare[limit] / mine[service] for bare, mine in zip(spent[limit], spent[stage], strict=True)]
    share = spread(of)
    numbers = {f"{name}_us": value for name, value in numbers.items()}
    return Figure(f"CPU of a task: {stage}", f"{text} µs", f"CPU: {LIMITS[limit]}", share, numbers)


class OneByOne:
    """A system whose services take turns."""

    def __init__(self, stack: Stack, tasks: int) -> None:
        self._stack, self._tasks = stack, tasks
        self._log = stack.redis()
        # Of one user no more at once than could fail before its breaker would have to know.
        tenants = tenants_of_all_partitions()
        self._users = [(tenants[number % TENANTS], str(uuid4())) for number in range(tasks // 2)]
        self._partitions = [Partition(number) for number in range(PARTITIONS)]
        self.spent: dict[str, list[dict[str, float]]] = {}

    def works(self) -> dict[str, Callable[[], float]]:
        """The limits and the stages, in the order of a turn."""
        return {
            "append": lambda: self._bare("append", floors.append, self._log, self._entries()),
            "loop": lambda: self._bare("loop", floors.read_append_acknowledge, self._log, self._entries()),
            "gateway": self.accept,
            "policy": self.decide,
            "executor": self.call,
            "settle": self.settle,
            "ledger": self.project,
            "copy": lambda: self._bare("copy", floors.copy, self._superuser(), EVENTS_A_TASK * self._tasks),
        }

    def turn(self) -> None:
        """All stages once."""
        for stage in (self.accept, self.decide, self.call, self.settle, self.project):
            stage()

    def accept(self) -> float:
        """From the inbox to the partitions' streams."""
        pipeline = self._log.pipeline(transaction=False)
        for entry in self._entries():
            pipeline.xadd(INBOX, {"data": entry})
        pipeline.execute()
        return self._until(self._tasks, self._lengths("tasks"), "gateway", "valkey")

    def decide(self) -> float:
        """Tasks to decisions."""
        return self._until(self._tasks, self._lengths("decisions"), "policy", "valkey")

    def call(self) -> float:
        """Decisions to outcomes, two a task."""
        return self._until(2 * self._tasks, self._lengths("outcomes"), "executor", "valkey") / 2

    def settle(self) -> float:
        """Outcomes to reservations that have ended."""
        return self._until(self._tasks, self._lengths("decisions"), "policy", "valkey", stage="settle")

    def project(self) -> float:
        """Events to rows. Events a second."""
        return self._until(EVENTS_A_TASK * self._tasks, self._chained, "ledger", "valkey", "postgres")

    def _bare(self, name: str, limit: Callable[..., float], *arguments: Any) -> float:
        """A limit's rate; its CPU is this process's."""
        began = time.process_time()
        found = limit(*arguments)
        self.spent.setdefault(name, []).append({name: (time.process_time() - began) / self._tasks * 1e6})
        return found

    def _until(self, more: int, seen: Callable[[], int], service: str, *servers: str, stage: str = "") -> float:
        """Let the service go until it has made so many; a second, from its first ones on, once it has its leases."""
        before, members = seen(), families(self._stack)
        used = {name: -cpu_s(members[name]) for name in (service, *servers)}
        with let_go(self._stack, service):
            began = time.perf_counter()
            while (at_first := seen()) == before:
                _look(began, f"{service} begins")
            first = time.perf_counter()
            while (now := seen()) < before + more:
                _look(began, f"{service} has done {now - before} of {more}")
            took = time.perf_counter() - first
        for name in used:
            used[name] = (used[name] + cpu_s(members[name])) / self._tasks * 1e6
        self.spent.setdefault(stage or service, []).append(used)
        return (before + more - at_first) / took

    def _lengths(self, stream: str) -> Callable[[], int]:
        """How many entries these streams ever had."""
        names = [getattr(one, stream) for one in self._partitions]
        return partial(_appended, self._log, names)

    def _chained(self) -> int:
        with psycopg.connect(self._superuser()) as books:
            row = books.execute("SELECT coalesce(sum(length), 0) FROM event_chains WHERE chain >= 0").fetchone()
        return int(row[0]) if row else 0

    def _superuser(self) -> str:
        return str(self._stack.ready["admin_database_url"])

    def _entries(self) -> Sequence[bytes]:
        return [entry(*self._users[number % len(self._users)]) for number in range(self._tasks)]


def entry(tenant: str, user: str) -> bytes:
    """A task for the inbox; its prompt is like no other's, so it is in no cache."""
    request_id = uuid4().hex
    prompt = {"messages": [{"role": "user", "content": f"{request_id} {'hello ' * 20}"}]}
    task = {"tenant_id": tenant, "user_id": user, "request_id": request_id, "task_type": "route"}
    return json.dumps({**task, "max_cost_cents": 0.001, "prompt": prompt}).encode()


def _appended(log: Any, streams: Sequence[str]) -> int:
    total = 0
    for stream in streams:
        if log.exists(stream):
            total += int(log.xinfo_stream(stream)["entries-added"])
    return total


def _look(began: float, what: str) -> None:
    assert time.perf_counter() - began < ENOUGH_S, f"not within {ENOUGH_S:.0f} s: {what}"
    time.sleep(LOOK_S)


def tenants_of_all_partitions() -> list[str]:
    """New ones, as many in each partition."""
    return [str(tenant_in(number % PARTITIONS)) for number in range(TENANTS)]


def tenant_in(partition: int) -> UUID:
    """A new tenant who lives there."""
    return next(one for one in iter(uuid4, UUID(int=0)) if partition_of(one, PARTITIONS) == partition)


if __name__ == "__main__":
    for figure in measure():
        print(figure)
