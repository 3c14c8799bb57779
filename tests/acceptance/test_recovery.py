"""Losing a server or a service: each says so, comes back by itself, and nothing that was accepted is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
import pytest
from redis.exceptions import OutOfMemoryError

from shared.partitions import INBOX, Partition
from tests.stack import Stack, eventually, paused, port_of

PARTITIONS = 4
# Far above what a paused server and a loaded machine cost together; what was measured is in docs/reliability.md.
LEASE_S = 3.0


@pytest.fixture(scope="module")
def stack(new_folder: Callable[[], Path]) -> Iterator[Stack]:
    """With little memory for the log."""
    with Stack(new_folder(), {"SKELDIR_EMBEDDED_MEMORY_MB": "24"}) as running:
        yield running


def server(stack: Stack, name: str) -> list[int]:
    """The processes of one of the two servers."""
    family = psutil.Process(stack.ready["supervisor_pid"]).children(recursive=True)
    return [one.pid for one in family if one.name().startswith(name)]


def readiness(stack: Stack) -> dict[str, int]:
    """What each service answers on /readyz."""
    urls = {name: f"http://127.0.0.1:{port_of(pid)}/readyz" for name, pid in stack.ready["pids"].items()}
    return {name: httpx.get(url, trust_env=False, timeout=30).status_code for name, url in urls.items()}


def test_who_loses_the_log_says_so_and_comes_back(stack: Stack) -> None:
    with paused(*server(stack, "valkey")):
        eventually(lambda: set(readiness(stack).values()) == {503}, "all four say that they lost the log", 30)
    eventually(lambda: set(readiness(stack).values()) == {200}, "all four are back", 30)
    assert stack.run()["status"] == "success"


def test_without_the_database_only_the_ledger_is_not_ready_and_decisions_go_on(stack: Stack) -> None:
    with paused(*server(stack, "postgres")):
        eventually(lambda: readiness(stack)["ledger"] == 503, "the ledger says that it lost the database", 30)
        others = {"ledger": 503, "gateway": 200, "policy": 200, "executor": 200}
        eventually(lambda: readiness(stack) == others, "all others are ready")
        result = stack.run()
        assert result["status"] == "success"
    eventually(lambda: readiness(stack)["ledger"] == 200, "the ledger is back", 30)
    stack.call(result)


def test_a_paused_policy_is_replaced_in_time_and_decides_nothing_when_it_wakes_up(stack: Stack) -> None:
    environment = stack.environment | {"SKELDIR_REDIS_URL": stack.ready["redis_url"], "SKELDIR_POLICY_PORT": "0"}
    with (stack.directory / "second-policy.log").open("ab") as log:
        second = subprocess.Popen(
            [sys.executable, "-m", "skeldir", "serve", "policy"], env=environment, stdout=log, stderr=log
        )
    leases = [Partition(number).lease("policy") for number in range(PARTITIONS)]
    redis = stack.redis()

    def led_by(pid: int) -> bool:
        owners = [redis.hget(lease, "owner") or b"" for lease in leases]
        return all(owner.startswith(b"policy-%d-" % pid) for owner in owners)

    try:
        eventually(lambda: b"starts" in (stack.directory / "second-policy.log").read_bytes(), "it has started", 60)
        first = stack.pid("policy")
        with paused(first):
            results = [stack.run() for _ in range(3)]
            eventually(lambda: led_by(second.pid), "the second one leads everywhere")
        results += [stack.run() for _ in range(3)]
    finally:
        second.kill()
        second.wait(20)
    eventually(lambda: led_by(first), "the first one leads again")
    results += [stack.run() for _ in range(3)]
    assert {result["status"] for result in results} == {"success"}
    tenant, user = stack.ready["tenant_id"], stack.ready["user_id"]
    for result in results:
        stack.call(result)
        query = f"SELECT id FROM events WHERE type = 'task.allowed' AND subject = '{result['task_id']}'"
        assert len(stack.rows(query, tenant, user)) == 1, "decided once"
    tasks = ", ".join(f"'{result['task_id']}'" for result in results)
    waits = (
        "SELECT extract(epoch FROM max(time) - min(time))::float AS s FROM events "
        f"WHERE type IN ('task.submitted', 'task.allowed') AND subject IN ({tasks}) GROUP BY subject ORDER BY s DESC"
    )
    longest_s = stack.rows(waits, tenant, user)[0]["s"]
    print(f"\nno task waited longer than {longest_s:.2f} s for its decision")
    assert longest_s < 2 * LEASE_S


@pytest.mark.timeout(300)  # each of its waits says by itself what it waited for
def test_with_the_ledger_stopped_decisions_go_on_to_the_bound_and_nothing_is_lost(stack: Stack) -> None:
    """At the bound the door closes, a stop gets through, the inbox keeps its entries; then all ends are booked."""
    log = stack.redis()
    tenant, user = stack.ready["tenant_id"], stack.ready["user_id"]
    task = {"task_type": "route", "prompt": {"text": "x" * 30_000}, "max_cost_cents": 0.001}
    accepted: list[str] = []
    log.set("ballast", b"x" * 3_000_000)  # room for the inbox, to be had again at will
    with paused(stack.pid("ledger")):
        while (reply := stack.post("/v1/tasks", task)).status_code == 202:
            accepted.append(reply.json()["task_id"])
        assert (reply.status_code, reply.json()["code"]) == (503, "log_full")
        assert int(reply.headers["retry-after"]) >= 1
        assert len(accepted) > 50

        def ended() -> bool:
            return all(stack.get(f"/v1/tasks/{task_id}").json()["status"] == "success" for task_id in accepted[-20:])

        eventually(ended, "what was accepted ends without the ledger", 30)
        order = {"type": "kill_switch.engaged", "scope": {"model": "none"}, "reason": "drill"}
        assert stack.post("/v1/control", order, key=stack.ready["operator_key"]).status_code == 202
        with suppress(OutOfMemoryError):
            for number in range(1000):  # somebody else fills what was kept free
                log.set(f"ballast:{number}", b"x" * 100_000)
        assert stack.post("/v1/control", order, key=stack.ready["operator_key"]).status_code == 202
        waits = {**task, "tenant_id": tenant, "user_id": user, "request_id": str(uuid4())}
        log.delete("ballast", *log.keys("ballast:*"))

        def taken() -> bool:
            """As a producer does that was refused: again. What others had to write may have come first."""
            with suppress(OutOfMemoryError):
                log.xadd(INBOX, {"data": json.dumps(waits)})
                return True
            return False

        eventually(taken, "the inbox takes an entry again", 30)
    query = "SELECT count(*) AS n FROM llm_api_calls WHERE status = 'success' AND "

    def in_the_books() -> bool:
        ids = ", ".join(f"'{task_id}'" for task_id in accepted)
        (row,) = stack.rows(f"{query} (id IN ({ids}) OR request_id = '{waits['request_id']}')", tenant, user)
        return bool(row["n"] == len(accepted) + 1)

    eventually(in_the_books, "every end is in the books", 60)
    eventually(lambda: stack.post("/v1/tasks", task).status_code == 202, "the log is trimmed, the door open", 60)
