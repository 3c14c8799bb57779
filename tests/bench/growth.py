"""Whether a task costs the same among few users and among many, and before an empty backlog and behind a long one."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from services.policy.state import Account
from services.policy.store import encode_account
from shared.partitions import INBOX, Partition
from tests.bench.alone import PARTITIONS, ROOMY, entry, tenant_in
from tests.bench.chain import Spending, cpu_of, kept
from tests.bench.figures import Figure, rate
from tests.bench.http_load import Request, request
from tests.stack import Stack

AT_ONCE = 16
KEYS_AT_ONCE = 5000
SEEN_S = 8.0
QUIET_S = 1.0


def measure(
    users: tuple[int, ...] = (16, 1000, 100_000, 1_000_000),
    backlogs: tuple[int, ...] = (4_000, 20_000, 1_000_000),
    tasks: int = 1500,
) -> list[Figure]:
    """Tasks over HTTP, 16 at once, of users that have an account already; then out of backlogs."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-") as folder, Stack(Path(folder), ROOMY) as stack:
        figures = [figure for number in users for figure in _among(stack, number, tasks)]
        return [*figures, *(_behind(stack, entries) for entries in backlogs)]


def _among(stack: Stack, users: int, tasks: int) -> list[Figure]:
    """Of a tenant in each partition, so many users in all."""
    tenants = [tenant_in(number % PARTITIONS) for number in range(PARTITIONS)]
    _accounts(stack.redis(), tenants, users)
    keys = [stack.key(str(tenant)) for tenant in tenants]
    dice = random.Random(users)

    def make(caller: int) -> Request:
        # Callers have users apart: of few users no two tasks are at once, or they would wait for one another.
        number = dice.randrange(users // AT_ONCE) * AT_ONCE + caller
        task = {
            "task_type": "route",
            "user_id": str(_user(number)),
            "request_id": uuid4().hex,
            "max_cost_cents": 0.0001,
        }
        body = json.dumps({**task, "prompt": {"text": uuid4().hex}}).encode()
        return request("/v1/tasks", keys[number % PARTITIONS], Prefer="wait=30"), body

    kept([], stack.ready["gateway_url"], AT_ONCE, 200, make)
    spent: list[dict[str, float]] = []
    rates = []
    for _ in range(3):
        with Spending(stack, spent, tasks):
            rates.append(kept([], stack.ready["gateway_url"], AT_ONCE, tasks, make))
    what = f"chain over HTTP, {AT_ONCE} at once, among {users:,} users"
    return [rate(what, "tasks", rates), cpu_of(what, spent)]


def _accounts(log: Any, tenants: list[UUID], users: int) -> None:
    """So that each has spent before."""
    value, pipeline = encode_account(Account(version=1)), log.pipeline(transaction=False)
    for number in range(users):
        partition = number % PARTITIONS
        pipeline.set(Partition(partition).account(tenants[partition], _user(number)), value)
        if len(pipeline) >= KEYS_AT_ONCE:
            pipeline.execute()
    pipeline.execute()


def _user(number: int) -> UUID:
    return UUID(int=(1 << 96) + number)


def _behind(stack: Stack, entries: int) -> Figure:
    """Tasks a second out of a backlog, once it is there, for some seconds or until it is done."""
    log: Any = stack.redis()
    tenants = [str(tenant_in(number % PARTITIONS)) for number in range(PARTITIONS)]
    pipeline = log.pipeline(transaction=False)
    for number in range(entries):
        pipeline.xadd(INBOX, {"data": entry(tenants[number % PARTITIONS], str(uuid4()))})
        if len(pipeline) >= KEYS_AT_ONCE:
            pipeline.execute()
    pipeline.execute()
    began, before = time.perf_counter(), _ended(log)
    now, last = before, began
    while time.perf_counter() - began < SEEN_S and (now == before or time.perf_counter() - last < QUIET_S):
        time.sleep(0.02)
        if (found := _ended(log)) > now:
            now, last = found, time.perf_counter()
    left = int(log.xinfo_groups(INBOX)[0]["lag"])
    log.xtrim(INBOX, maxlen=0)  # what is left is not waited for
    what = f"calls out of a backlog of {entries:,} ({left:,} left in the inbox)"
    return rate(what, "tasks", [(now - before) / (last - began)])


def _ended(log: Any) -> int:
    """Outcomes so far: two a task."""
    streams = [Partition(number).outcomes for number in range(PARTITIONS)]
    return sum(int(log.xinfo_stream(one)["entries-added"]) for one in streams if log.exists(one)) // 2


if __name__ == "__main__":
    for figure in measure():
        print(figure)
