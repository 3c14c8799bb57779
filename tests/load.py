"""Clients that go on submitting while something happens to the system, and what became of each task."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx

from shared.partitions import partition_for
from tests.stack import LIMITS, Stack, eventually


def tenants(partitions: int) -> list[str]:
    """One in each partition."""
    found: dict[int, str] = {}
    while len(found) < partitions:
        one = uuid4()
        found[partition_for(one, partitions).number] = str(one)
    return [found[number] for number in range(partitions)]


class Load:
    """Clients of each partition. What is refused with one of `refusals` is asked again until it is taken."""

    def __init__(
        self, stack: Stack, partitions: int, *, refusals: Set[int] = frozenset(), gateway: str = "", **prompt: Any
    ) -> None:
        self._stack = stack
        self._client = httpx.Client(
            base_url=gateway or stack.ready["gateway_url"], trust_env=False, timeout=60, limits=LIMITS
        )
        self._refusals = refusals
        self._prompt = {"simulated_cost_cents": 0.01, **prompt}
        self._stop = threading.Event()
        self.users = {tenant: str(uuid4()) for tenant in tenants(partitions)}
        self.keys = {tenant: stack.key(tenant, user) for tenant, user in self.users.items()}
        self.ends: dict[str, list[tuple[float, str]]] = {tenant: [] for tenant in self.users}

    @contextmanager
    def running(self, clients_each: int) -> Iterator[None]:
        """While entered, so many clients of each tenant submit, one task after another."""
        owners = list(self.users) * clients_each
        with ThreadPoolExecutor(len(owners)) as pool:
            clients = [pool.submit(self._run, owner) for owner in owners]
            try:
                yield
            finally:
                self._stop.set()
            for client in clients:
                client.result(60)
        self._client.close()

    def submit(self, key: str, request_id: str, prompt: dict[str, Any], **more: Any) -> dict[str, Any]:
        """A task and its result, asked for again and again where it is refused as it may be, or has not ended yet."""
        body = {"task_type": "route", "request_id": request_id, "prompt": prompt, **more}
        headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=20"}
        while True:
            reply = self._client.post("/v1/tasks", json=body, headers=headers)
            if reply.is_success and reply.json()["status"] != "pending":
                result: dict[str, Any] = reply.json()
                return result
            assert reply.is_success or reply.status_code in self._refusals, reply.text
            time.sleep(0.05)

    def until_all_have(self, count: int, after_s: float = 0) -> None:
        """Until so many tasks of each tenant have ended from now on, or from `after_s` on."""
        since = time.monotonic() + after_s

        def have() -> bool:
            return all(sum(at > since for at, _ in ends) >= count for ends in self.ends.values())

        eventually(have, "tasks of every tenant end", 60)

    def longest_gap(self, tenant: str) -> float:
        """The longest time in which none of the tenant's tasks ended, in seconds."""
        times = sorted(at for at, _ in self.ends[tenant])
        return max(later - earlier for earlier, later in pairwise(times))

    def is_booked(self) -> bool:
        """Whether each task has exactly one end in the books, and there are no others."""
        query = "SELECT subject FROM events WHERE type = 'task.succeeded'"
        for tenant, user in self.users.items():
            booked = sorted(str(row["subject"]) for row in self._stack.rows(query, tenant, user))
            if booked != sorted(task for _, task in self.ends[tenant]):
                return False
        return True

    def _run(self, tenant: str) -> None:
        while not self._stop.is_set():
            request_id = str(uuid4())
            result = self.submit(self.keys[tenant], request_id, {**self._prompt, "text": request_id})
            assert result["status"] == "success", result
            self.ends[tenant].append((time.monotonic(), result["task_id"]))
