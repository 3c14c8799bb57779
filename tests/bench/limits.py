"""How late a task may still be allowed after a limit was lowered, or a model's breaker opened: from the order's
acknowledgement to the last allow of a user whose tasks keep coming, one every two milliseconds.
By the log server's own clock."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import redis

from shared.partitions import CONTROL, INBOX, partition_for
from shared.settings import Settings
from tests.bench.figures import Figure, milliseconds
from tests.stack import Stack, eventually

ORDERS = 60
EVERY_S = 0.002


def measure() -> list[Figure]:
    """Each order for a user, or for a model, of its own; it leaves no room for another task."""
    environment = {"SKELDIR_PROVIDER_BREAKER_STUB": "true"}
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder), environment) as stack:
        lags = {what: [last_allow_ms(stack, order) for _ in range(ORDERS)] for what, order in SAID.items()}
    said = "(below 0: before it)"
    return [Figure(f"last allow after {what} {said}, {ORDERS} orders", milliseconds(of)) for what, of in lags.items()]


def lower_limit(stack: Stack, tenant: str, user: str, _: str) -> None:
    """Over HTTP."""
    scope = {"tenant_id": tenant, "user_id": user}
    order = {"type": "limits.set", "scope": scope, "hourly_cents": 0.0001, "actor": "bench"}
    assert stack.post("/v1/control", order, key=stack.ready["operator_key"]).is_success


def open_breaker(stack: Stack, _: str, __: str, model: str) -> None:
    """As policy's elected writer publishes it."""
    about = {"provider": "stub", "model": model, "state": "open", "previous": "closed", "version": 1}
    order = {"type": "provider_breaker.changed", **about, "until": "2099-01-01T00:00:00Z", "reason": "bench"}
    stack.redis().xadd(CONTROL, {"data": json.dumps({**order, "actor": "bench"})})


SAID = {
    "a lower limit was acknowledged": lower_limit,
    "the breaker of a model was published as open": open_breaker,
}


def last_allow_ms(stack: Stack, order: Callable[[Stack, str, str, str], None]) -> float:
    """One order. Entry ids of the log are its clock's milliseconds."""
    tenant, user, model, enough = str(uuid4()), str(uuid4()), f"model-{uuid4()}", threading.Event()
    log: Any = stack.redis()
    seen = Seen(log, partition_for(UUID(tenant), Settings().partitions).decisions, user)
    producer = threading.Thread(target=submit, args=(stack.redis(), tenant, user, model, enough))
    producer.start()
    try:
        eventually(lambda: bool(seen.times("task.allowed")), "the first allow")
        order(stack, tenant, user, model)
        seconds, microseconds = log.time()
        eventually(lambda: len(seen.times("task.blocked")) > 20, "it holds")
    finally:
        enough.set()
        producer.join()
    return float(max(seen.times("task.allowed")) - (seconds * 1000 + microseconds / 1000))


class Seen:
    """Decisions about one user, from the moment that nobody had asked for one; the log is trimmed behind them."""

    def __init__(self, log: Any, stream: str, user: str) -> None:
        self._log, self._stream, self._user = log, stream, user.encode()
        last = log.xrevrange(stream, count=1)
        self._position = last[0][0] if last else b"0-0"
        self._found: list[tuple[str, int]] = []

    def times(self, kind: str) -> list[int]:
        """When events of this kind were appended, in milliseconds."""
        for _, entries in self._log.xread({self._stream: self._position}):
            for entry_id, fields in entries:
                self._position = entry_id
                if self._user in fields[b"data"]:
                    self._found.append((fields[b"type"].decode(), int(entry_id.partition(b"-")[0])))
        return [at for one, at in self._found if one == kind]


def submit(log: redis.Redis, tenant: str, user: str, model: str, enough: threading.Event) -> None:
    """Tasks of one user, one after another."""
    prompt = {"model": f"stub:{model}"}
    task = {"tenant_id": tenant, "user_id": user, "task_type": "route", "prompt": prompt, "max_cost_cents": 0.001}
    while not enough.is_set():
        log.xadd(INBOX, {"data": json.dumps({**task, "request_id": uuid4().hex})})
        time.sleep(EVERY_S)


if __name__ == "__main__":
    for figure in measure():
        print(f"{figure.what}: {figure.value}")
