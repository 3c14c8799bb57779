"""The whole chain: over HTTP by concurrency, from the inbox, blocked, cached and repeated; where its CPU goes, and what
memory each process has.

Rates are of the whole machine: servers, services and the load itself. CPU a task hardly depends on what else runs.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg

from shared.partitions import INBOX
from tests.bench.alone import ENOUGH_S, LOOK_S, ROOMY, entry, tenants_of_all_partitions
from tests.bench.bare_http import BareServer
from tests.bench.figures import Figure, Spread, in_turns, milliseconds, rate, spread
from tests.bench.http_load import Load, Request, load, request
from tests.bench.processes import cpu_s, families, memory_mb
from tests.stack import Stack

AT_ONCE = (1, 16, 64, 256)
# Of each tenant, those who come again.
USERS = 16
IDLE_S = 5.0
TRIMMED_S = 3.0


def measure(tasks: int = 3000, turns: int = 3, at_once: Sequence[int] = AT_ONCE) -> list[Figure]:
    """All of it, on one system."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder), ROOMY) as stack:
        chain = Chain(stack)
        figures = [chain.at_rest()]
        answer = chain.warm()
        with BareServer(answer) as bare:
            for callers in at_once:
                figures += chain.over_http(bare.url, callers, max(100, tasks * callers // (callers + 16)), turns)
        before = chain.stored()
        figures += chain.from_the_inbox(tasks, turns)
        figures.append(chain.memory("memory under load"))
        figures.append(_bytes(before, chain.stored(), 4 * turns * tasks + (USERS + 1) * len(chain.tenants)))
    return figures


class Chain:
    """A running system, and what is asked of it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._log: Any = stack.redis()
        self._url = stack.ready["gateway_url"]
        self.tenants = tenants_of_all_partitions()
        self._keys = [stack.key(tenant) for tenant in self.tenants]

    def warm(self) -> bytes:
        """Everything is loaded. The body of an answer."""
        asyncio.run(load(self._url, 16, 300, self.new_task, b'"status":"success"'))
        return self._stack.post(
            "/v1/tasks", {"task_type": "route", "prompt": {}, "max_cost_cents": 0.0001}, Prefer="wait=30"
        ).content

    def at_rest(self) -> Figure:
        """CPU and memory of each process while nobody asks anything."""
        members = families(self._stack)
        before = {name: cpu_s(family) for name, family in members.items()}
        time.sleep(IDLE_S)
        shares = {name: (cpu_s(family) - before[name]) / IDLE_S * 100 for name, family in members.items()}
        memory = {name: memory_mb(family) for name, family in members.items()}
        text = ", ".join(f"{name} {memory[name]:.0f} MB {share:.1f} %" for name, share in shares.items())
        numbers = {f"{name}_mb": value for name, value in memory.items()}
        return Figure("at rest: memory, CPU", text, numbers=numbers | {f"{n}_percent": s for n, s in shares.items()})

    def memory(self, what: str) -> Figure:
        """Of each process now."""
        found = {name: memory_mb(family) for name, family in families(self._stack).items()}
        text = ", ".join(f"{name} {value:.0f}" for name, value in found.items())
        return Figure(what, f"{text} MB", numbers={f"{name}_mb": value for name, value in found.items()})

    def stored(self) -> dict[str, int]:
        """Bytes in the log server, when what all have read is trimmed, and in the database."""
        time.sleep(TRIMMED_S)
        with psycopg.connect(self._stack.ready["admin_database_url"], autocommit=True) as books:
            row = books.execute("SELECT pg_database_size(current_database())").fetchone()
        return {"log": int(self._log.info("memory")["used_memory"]), "books": int(row[0]) if row else 0}

    def over_http(self, bare: str, at_once: int, tasks: int, turns: int) -> list[Figure]:
        """Tasks that are waited for; repeats of tasks that have ended; and the bare server."""
        loads: dict[str, list[Load]] = {"chain": [], "bare": [], "again": []}
        spent: list[dict[str, float]] = []
        requests: list[Request] = []

        def chain() -> float:
            requests.clear()
            with Spending(self._stack, spent, tasks):
                return kept(loads["chain"], self._url, at_once, tasks, self._remembered(requests))

        def again() -> float:
            repeats = iter(requests)
            return kept(loads["again"], self._url, at_once, tasks, lambda _: next(repeats))

        def empty() -> float:
            return kept(loads["bare"], bare, at_once, 10 * tasks, self.new_task, b"")

        rates = in_turns({"bare": empty, "chain": chain, "again": again}, turns)
        took = [one for turn in loads["chain"] for one in turn.took_ms]
        return [
            rate(f"bare HTTP server, {at_once} at once", "requests", rates["bare"]),
            rate(f"chain over HTTP, {at_once} at once", "tasks", rates["chain"], "bare HTTP", rates["bare"]),
            Figure(f"chain over HTTP, {at_once} at once: latency", milliseconds(took)),
            cpu_of(f"chain over HTTP, {at_once} at once", spent),
            rate(f"repeats of ended tasks, {at_once} at once", "requests", rates["again"], "bare HTTP", rates["bare"]),
        ]

    def from_the_inbox(self, tasks: int, turns: int) -> list[Figure]:
        """Into the inbox all at once, until the books have every event of them."""
        spent: dict[str, list[dict[str, float]]] = {"new": [], "known": [], "blocked": [], "cached": []}
        known = [(tenant, str(uuid4())) for _ in range(USERS) for tenant in self.tenants]
        again, stopped = known[: len(self.tenants)], [(tenant, str(uuid4())) for tenant in tenants_of_all_partitions()]
        self.through([entry(*owner) for owner in known], 5 * len(known))
        self.through([_same(*owner) for owner in again], 5 * len(again))
        for tenant, _ in stopped:
            scope = {"tenant_id": tenant}
            order = {"type": "kill_switch.engaged", "scope": scope, "reason": "bench", "actor": "bench"}
            assert self._stack.post("/v1/control", order, key=self._stack.ready["operator_key"]).is_success

        def new() -> list[bytes]:
            return [entry(self.tenants[one % len(self.tenants)], str(uuid4())) for one in range(tasks)]

        def of_known() -> list[bytes]:
            return [entry(*known[number % len(known)]) for number in range(tasks)]

        def refused() -> list[bytes]:
            return [entry(*stopped[number % len(stopped)]) for number in range(tasks)]

        def cached() -> list[bytes]:
            return [_same(*again[number % len(again)]) for number in range(tasks)]

        def work(name: str, make: Callable[[], list[bytes]], events: int) -> Callable[[], float]:
            def run() -> float:
                entries = make()
                with Spending(self._stack, spent[name], tasks):
                    return self.through(entries, events * tasks)

            return run

        works = {
            "new": work("new", new, 5),
            "known": work("known", of_known, 5),
            "blocked": work("blocked", refused, 2),
            "cached": work("cached", cached, 4),
        }
        rates = in_turns(works, turns)
        named = {
            "new": "inbox to books, each of a new user",
            "known": "inbox to books, of known users",
            "blocked": "inbox to books, all blocked",
            "cached": "inbox to books, all from the cache",
        }
        return [
            figure
            for name, what in named.items()
            for figure in (rate(what, "tasks", rates[name]), cpu_of(what, spent[name]))
        ]

    def through(self, entries: list[bytes], events: int) -> float:
        """Tasks a second, from the first XADD to the commit of the last event."""
        with psycopg.connect(self._stack.ready["admin_database_url"], autocommit=True) as books:

            def chained() -> int:
                row = books.execute("SELECT coalesce(sum(length), 0) FROM event_chains WHERE chain >= 0").fetchone()
                return int(row[0]) if row else 0

            before, began = chained(), time.perf_counter()
            for first in range(0, len(entries), 500):
                pipeline = self._log.pipeline(transaction=False)
                for one in entries[first : first + 500]:
                    pipeline.xadd(INBOX, {"data": one})
                pipeline.execute()
            while (now := chained()) < before + events:
                assert time.perf_counter() - began < ENOUGH_S, f"{now - before} of {events} events in the books"
                time.sleep(LOOK_S * 4)
            return len(entries) / (time.perf_counter() - began)

    def new_task(self, caller: int) -> Request:
        """Of a user of its own, and waited for."""
        head = request("/v1/tasks", self._keys[caller % len(self._keys)], Prefer="wait=30")
        task = {"task_type": "route", "user_id": str(uuid4()), "request_id": uuid4().hex, "max_cost_cents": 0.0001}
        return head, json.dumps({**task, "prompt": {"text": uuid4().hex}}).encode()

    def _remembered(self, requests: list[Request]) -> Callable[[int], Request]:
        def make(caller: int) -> Request:
            requests.append(self.new_task(caller))
            return requests[-1]

        return make


class Spending:
    """Microseconds of CPU a task, by process, until the books are done with them."""

    def __init__(
        self,
        stack: Stack,
        into: list[dict[str, float]],
        tasks: int,
        others: Mapping[str, list[psutil.Process]] | None = None,
    ) -> None:
        """`others`: processes that are not of `up`, by their service."""
        self._members, self._into, self._tasks = families(stack), into, tasks
        for name, more in (others or {}).items():
            self._members[name] += more

    def __enter__(self) -> None:
        self._before = {name: cpu_s(family) for name, family in self._members.items()}

    def __exit__(self, *_: object) -> None:
        time.sleep(0.5)  # the ledger's last batch
        used = {
            name: (cpu_s(family) - self._before[name]) / self._tasks * 1e6 for name, family in self._members.items()
        }
        self._into.append(used)


def kept(
    loads: list[Load],
    url: str,
    at_once: int,
    requests: int,
    make: Callable[[int], Request],
    wanted: bytes = b'"status":"success"',
) -> float:
    """Load it; the rate. What came of it is kept in `loads`."""
    loads.append(asyncio.run(load(url, at_once, requests, make, wanted)))
    return loads[-1].rate


def cpu_of(what: str, spent: list[dict[str, float]]) -> Figure:
    """What a task took, all processes together and each."""
    by_process: dict[str, Spread] = {name: spread([turn[name] for turn in spent]) for name in spent[0]}
    total = spread([sum(turn.values()) for turn in spent])
    shares = ", ".join(f"{name} {found.median:.0f}" for name, found in by_process.items())
    numbers = {f"{name}_us": found.median for name, found in by_process.items()}
    return Figure(f"{what}: CPU a task", f"{total.of()} µs: {shares}", numbers=numbers | {"total_us": total.median})


def _bytes(before: dict[str, int], after: dict[str, int], tasks: int) -> Figure:
    """Of a task, on average over a quarter each: of new users, of known ones, blocked, cached."""
    found = {name: (after[name] - before[name]) / tasks for name in after}
    text = ", ".join(f"{name} {value:,.0f}" for name, value in found.items())
    numbers = {f"{name}_bytes": value for name, value in found.items()}
    return Figure("bytes that stay of a task (a quarter each: new, known, blocked, cached)", text, numbers=numbers)


def _same(tenant: str, user: str) -> bytes:
    """A new task with the user's one question."""
    task = {"tenant_id": tenant, "user_id": user, "request_id": uuid4().hex, "task_type": "route"}
    return json.dumps({**task, "max_cost_cents": 0.001, "prompt": {"text": "the same"}}).encode()


if __name__ == "__main__":
    for figure in measure():
        print(figure)
