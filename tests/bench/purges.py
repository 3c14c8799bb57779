"""How long a purged answer is still served: from the order's acknowledgement to the last answer from the cache of a
user who goes on asking the same, every two milliseconds. By the log server's own clock."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from shared.partitions import INBOX, partition_for
from shared.settings import Settings
from tests.bench.figures import Figure, milliseconds
from tests.stack import Stack, eventually

ORDERS = 60
EVERY_S = 0.002


def measure() -> list[Figure]:
    """Each order for a user of its own."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder)) as stack:
        lags = [last_answer_ms(stack) for _ in range(ORDERS)]
    said = "last answer from a cache after its purge was acknowledged (below 0: before it)"
    return [Figure(f"{said}, {ORDERS} orders", milliseconds(lags))]


def last_answer_ms(stack: Stack) -> float:
    """One purge. After it the first who asks is answered by the provider, and that answer is cached anew."""
    tenant, user, enough = str(uuid4()), str(uuid4()), threading.Event()
    log: Any = stack.redis()
    answers = Answers(log, partition_for(UUID(tenant), Settings().partitions).outcomes, user)
    producer = threading.Thread(target=ask, args=(stack.redis(), tenant, user, enough))
    producer.start()
    try:
        eventually(lambda: len(answers.look().cached) > 5, "answers from the cache")
        called = len(answers.called)
        order = {"type": "cache.purged", "scope": {"tenant_id": tenant}, "actor": "bench"}
        assert stack.post("/v1/control", order, key=stack.ready["operator_key"]).is_success
        seconds, microseconds = log.time()
        eventually(lambda: len(answers.look().called) > called, "a call")
        time.sleep(0.2)  # for answers of before that are later still
    finally:
        enough.set()
        producer.join()
    first = answers.look().called[called]
    return float(max(at for at in answers.cached if at <= first) - (seconds * 1000 + microseconds / 1000))


class Answers:
    """A user's answers, from now on: when they were recorded, and whether they were called for or cached."""

    def __init__(self, log: Any, stream: str, user: str) -> None:
        self._log, self._stream, self._user = log, stream, user.encode()
        last = log.xrevrange(stream, count=1)
        self._position = last[0][0] if last else b"0-0"
        self.cached: list[int] = []
        self.called: list[int] = []

    def look(self) -> Answers:
        """Take in what is new."""
        for _, entries in self._log.xread({self._stream: self._position}):
            for entry_id, fields in entries:
                self._position = entry_id
                if self._user in fields[b"data"] and fields[b"type"] == b"task.succeeded":
                    cached = json.loads(fields[b"data"])["data"]["was_cached"]
                    (self.cached if cached else self.called).append(int(entry_id.partition(b"-")[0]))
        return self


def ask(log: Any, tenant: str, user: str, enough: threading.Event) -> None:
    """The same question, again and again."""
    prompt = {"text": "the same", "cache_enabled": True}
    task = {"tenant_id": tenant, "user_id": user, "task_type": "route", "prompt": prompt, "max_cost_cents": 0.001}
    while not enough.is_set():
        log.xadd(INBOX, {"data": json.dumps({**task, "request_id": uuid4().hex})})
        time.sleep(EVERY_S)


if __name__ == "__main__":
    for figure in measure():
        print(f"{figure.what}: {figure.value}")
