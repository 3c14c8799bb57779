"""The whole system on a primary that sentinels watch: the same cases, and it dies under load (`docs/cluster.md`)."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import redis

from tests.acceptance.test_chain import (  # noqa: F401  (the same cases, on the stack of this file)
    key,
    tenant,
    test_each_task_type_ends_as_one_row,
    test_ten_identical_at_once_make_one_call,
    test_the_same_request_id_with_another_body_or_user_is_a_conflict,
)
from tests.acceptance.test_control import (  # noqa: F401
    User,
    _never_overshot,
    said,
    test_a_kill_switch_by_xadd_and_over_http,
    test_the_hourly_threshold_holds_in_a_burst_and_then_shuts_off,
)
from tests.load import Load
from tests.mock_provider import MockProvider
from tests.stack import Stack, eventually
from tests.valkeys import WatchedValkeys

PARTITIONS = 4
CAP = 20
WRITES = 20


@pytest.fixture(scope="module")
def watched(new_folder: Callable[[], Path]) -> Iterator[WatchedValkeys]:
    """One replica more than an append has to be on: a server may die."""
    running = WatchedValkeys(new_folder, replicas=2)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def provider() -> Iterator[MockProvider]:
    """One that keeps its own account."""
    with MockProvider() as running:
        yield running


@pytest.fixture(scope="module")
def stack(watched: WatchedValkeys, provider: MockProvider, new_folder: Callable[[], Path]) -> Iterator[Stack]:
    """`skeldir up` on them."""
    settings = {
        "SKELDIR_REDIS_URL": watched.url("admin"),
        # Longer than a failover: what an executor has in its hands waits for the new primary, and does not end.
        "SKELDIR_CONTROL_STALENESS_MS": "15000",
        "SKELDIR_DEFAULT_PROVIDER": "stub",
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": provider.url,
    }
    with Stack(new_folder(), settings) as running:
        yield running


@pytest.fixture
def user(stack: Stack) -> User:
    """Of the case that is run."""
    return User(stack)


class Inbox:
    """A producer that goes on putting tasks into the inbox, and knows that a replica has them."""

    def __init__(self, owner: User) -> None:
        self.user = owner
        self.put: list[str] = []
        self._log = owner.stack.redis()
        self._stop = threading.Event()

    def run(self) -> None:
        """Until it is stopped. What is not surely there is put again, under its own request id."""
        while not self._stop.wait(0.05):
            request_id = str(uuid4())
            task = {"tenant_id": self.user.tenant, "user_id": self.user.id, "request_id": request_id}
            prompt = {"model": "openai:gpt-4o-mini", "text": request_id}
            data = json.dumps({**task, "task_type": "route", "prompt": prompt})
            while not self._is_there(data):
                pass
            self.put.append(request_id)

    def _is_there(self, data: str) -> bool:
        try:
            with self._log.pipeline(transaction=False) as pipeline:
                return bool(pipeline.xadd("skeldir:inbox", {"data": data}).wait(1, 1000).execute()[1])
        except redis.RedisError:
            return False

    def stop(self) -> None:
        self._stop.set()


def test_doctor_says_that_an_append_waits_for_replicas(stack: Stack, watched: WatchedValkeys) -> None:
    def replicas() -> dict[str, Any]:
        checks = json.loads(stack.cli("doctor", "--json", check=False).stdout)["checks"]
        (found,) = [one for one in checks if one["check"] == "replicas"]
        return dict(found)

    assert replicas()["ok"]
    with watched.unheard():
        found = eventually(lambda: None if (now := replicas())["ok"] else now, "they are missing")
    assert found["runbook"] == "docs/runbooks/incidents.md#a-log-server-is-away"
    eventually(lambda: watched.primary.is_followed_by(2), "the replicas are back")
    assert replicas()["ok"]


def test_the_books_take_in_nothing_that_no_replica_has(stack: Stack, watched: WatchedValkeys, user: User) -> None:
    """It may be lost with its server, and be decided otherwise by the next."""
    booked = f"SELECT count(*) FROM events WHERE user_id = '{user.id}' AND body LIKE '%\"unheard\"%'"
    task = {"request_id": "unheard", "task_type": "route", "prompt": {}}

    def is_booked() -> bool:
        with psycopg.connect(stack.ready["admin_database_url"]) as books:
            return books.execute(booked).fetchone() != (0,)

    def is_refused() -> bool:
        return "replicas" in stack.get("/readyz", base="ledger_url").text

    stack.run(key=user.key)
    with watched.unheard():
        reply = stack.post("/v1/tasks", task, key=user.key)
        assert reply.status_code == 503, "it is on the primary, and does not count yet"
        eventually(is_refused, "the ledger says what it waits for")
        assert not is_booked()
    eventually(is_booked, "the books have it")
    eventually(lambda: watched.primary.is_followed_by(2), "the replicas are back")


@pytest.mark.timeout(300)
def test_a_dead_primary_costs_seconds_and_nobody_a_task_a_call_or_a_cent(
    stack: Stack, watched: WatchedValkeys, provider: MockProvider
) -> None:
    """Last: there is one replica less afterwards."""
    load = Load(stack, PARTITIONS, refusals={503}, model="openai:gpt-4o-mini")
    inbox, stopped, poor = Inbox(User(stack)), User(stack), User(stack)
    stack.order("limits", "set", *poor.options, "--monthly-cents", str(CAP))

    def spend(number: int) -> dict[str, Any]:
        return load.submit(poor.key, f"cent {number}", {"simulated_cost_cents": 1}, max_cost_cents=1)

    def twice(number: int) -> dict[str, Any]:
        """Each request by two clients."""
        text = f"twice {number // 2}"
        return load.submit(inbox.user.key, text, {"model": "openai:gpt-4o-mini", "text": text})

    with ThreadPoolExecutor(12) as pool, load.running(clients_each=1):
        putting = pool.submit(inbox.run)
        load.until_all_have(5)
        stack.cli("kill-switch", "engage", *stopped.options, "--reason", "before it died")
        spent, twins = ([pool.submit(one, n) for n in range(2 * CAP)] for one in (spend, twice))
        with watched.unheard():
            since = watched.written()
            eventually(lambda: watched.written() > since + WRITES, "entries that no replica has")
            watched.primary.send(signal.SIGKILL)
        load.until_all_have(5, after_s=0.5)
        inbox.stop()
        putting.result(60)
        assert said([one.result(60) for one in spent]) == {"success": CAP, "monthly_cap_exceeded": CAP}
        assert len({one.result(60)["task_id"] for one in twins}) == CAP
        blocked = load.submit(stopped.key, str(uuid4()), {})
    assert blocked["blocked_reason"] == "provider_kill_switch", "what was acknowledged holds on the new primary"
    gaps = sorted(round(load.longest_gap(one), 1) for one in load.users)
    print(f"\nstood still: {gaps} s; {len(inbox.put)} by the inbox, {sum(map(len, load.ends.values()))} over HTTP")
    eventually(load.is_booked, "each task has one end in the books", 60)
    ends = "SELECT request_id FROM llm_api_calls WHERE status = 'success'"
    wanted = {*inbox.put, *(f"twice {number}" for number in range(CAP))}
    eventually(lambda: {row["request_id"] for row in inbox.user.rows(ends)} == wanted, "the inbox's tasks too", 60)
    calls = Counter(one.body["messages"][0]["content"] for one in provider.calls)
    assert set(calls.values()) == {1} and wanted <= calls.keys()
    _never_overshot(poor, "month", CAP)
    verified = stack.cli("ledger", "verify", "--history", check=False)
    assert verified.returncode == 0, verified.stdout
