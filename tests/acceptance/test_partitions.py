"""How many partitions the log has, from outside: it says so itself, and nothing starts with another number."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import pytest

from shared.events.tasks import TaskType, task_id_of
from shared.partitions import Partition, partition_of
from tests.load import Load
from tests.mock_provider import MockProvider, Reply
from tests.stack import Stack, eventually

SAID = "SKELDIR_PARTITIONS is 3, but the log has 2 partitions: unset it (the log says how many), or set it to 2"


@pytest.fixture
def provider() -> Iterator[MockProvider]:
    with MockProvider() as running:
        yield running


@pytest.mark.timeout(300)
def test_nothing_starts_with_another_number_than_the_log_has(
    new_stack: Callable[..., Stack], provider: MockProvider
) -> None:
    asked = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": provider.url, "SKELDIR_DEFAULT_PROVIDER": "stub"}
    stack = new_stack(SKELDIR_PARTITIONS="2", SKELDIR_PROVIDER_TIMEOUT_MS="200000", **asked)
    assert stack.run()["status"] == "success"
    other = {**stack.environment, "SKELDIR_PARTITIONS": "3", "SKELDIR_REDIS_URL": stack.ready["redis_url"]}
    other["SKELDIR_DATABASE_URL"] = stack.ready["database_url"]
    who = ("--tenant", stack.ready["tenant_id"], "--user", stack.ready["user_id"])
    for command in (("serve", "policy"), ("tail",), ("limits", "show", *who), ("restore", "gap")):
        refused = stack.cli_in(other, *command)
        assert (refused.returncode, refused.stderr.strip()) == (2, f"skeldir: {SAID}"), command
    _a_growth_that_does_not_come_to_its_end_changes_nothing(stack, provider)
    # A stop does not depend on it.
    stopped = stack.cli_in(other, "kill-switch", "engage", "--tenant", stack.ready["tenant_id"], "--reason", "test")
    assert stopped.returncode == 0, stopped.stderr
    found = json.loads(stack.cli_in(other, "doctor", "--json").stdout)["checks"]
    (told,) = [one for one in found if one["check"] == "partitions"]
    assert (told["ok"], told["found"]) == (False, SAID)
    stack.stop()
    up = [sys.executable, "-m", "skeldir", "up", "--data", str(stack.data)]
    again = subprocess.run(
        up,
        env={**stack.environment, "SKELDIR_PARTITIONS": "3"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (again.returncode, again.stderr.strip()) == (2, f"skeldir: {SAID}")


def _a_growth_that_does_not_come_to_its_end_changes_nothing(stack: Stack, provider: MockProvider) -> None:
    """It is out of time, or it is killed: new tasks are taken again, by themselves."""
    assert "no multiple of 2" in stack.refused("partitions", "grow", "3")
    over, fences = Event(), [Partition(number).fence for number in range(2)]
    provider.script(Reply(until=over))
    message = {"role": "user", "content": "a long call"}
    long = {"task_type": "route", "prompt": {"model": "openai:gpt-4o-mini", "max_tokens": 9, "messages": [message]}}
    task_id = stack.post("/v1/tasks", long).json()["task_id"]
    try:
        eventually(lambda: provider.calls, "the long call is under way")
        late = stack.cli("partitions", "grow", "4", "--timeout", "2", check=False)
        assert late.returncode == 1 and "executors have not ended 1 decisions. Nothing has changed" in late.stderr
        assert stack.run()["status"] == "success"
        command = [sys.executable, "-m", "skeldir", "partitions", "grow", "4"]
        with subprocess.Popen(command, env=stack.environment, stdout=subprocess.DEVNULL) as killed:
            eventually(lambda: stack.redis().mget(fences) == [b"closed"] * 2 or None, "it has closed the log", 60)
            killed.kill()
        assert stack.run()["status"] == "success", "it waited until the log was open again, and no longer"
    finally:
        over.set()
    path = f"/v1/tasks/{task_id}"
    eventually(lambda: stack.get(path).json()["status"] == "success", "the long call has its answer")
    assert json.loads(stack.cli("partitions", "show", "--json").stdout)["partitions"] == 2


@pytest.mark.timeout(300)
def test_the_log_grows_under_load_and_no_client_sees_it(new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """From 2 to 4 partitions: half of the tenants go elsewhere, with what they have spent and what is not certain."""
    stack = new_stack(SKELDIR_PARTITIONS="2", SKELDIR_PROVIDER_TIMEOUT_MS="1500", SKELDIR_LATE_RESULT_SECONDS="0")
    load = Load(stack, 4, simulated_delay_ms=20)
    moved = next(one for one in load.users if _in(one, 4) == 2)
    spender, by_inbox = str(uuid4()), {tenant: [str(uuid4()) for _ in range(30)] for tenant in load.users}
    key = stack.key(moved, spender)
    stack.order("limits", "set", "--tenant", moved, "--user", spender, "--monthly-cents", "1")
    spent = [stack.run(key=key, request_id=f"spent {n}", prompt={"simulated_cost_cents": 0.4}) for n in range(2)]
    lost = stack.run(key=load.keys[moved], prompt={"simulated_delay_ms": 9000, "simulated_cost_cents": 0.1})
    assert lost["failure_reason"] == "provider_timeout"
    with load.running(clients_each=2):
        load.until_all_have(3)
        with ThreadPoolExecutor(1) as producer:
            putting = producer.submit(_put, stack, load, by_inbox)
            grown = stack.cli("partitions", "grow", "4").stdout
            putting.result()
        assert "2 -> 4 partitions" in grown and "taken it up" not in grown, grown
        load.until_all_have(3)
    print(grown)
    shown = json.loads(stack.cli("partitions", "show", "--json").stdout)
    assert (shown["partitions"], shown["before"]) == (4, [2])
    assert {row["door"] for row in shown["each"]} == {"yes"}
    # The request of before is the same task, and what was spent counts.
    again = stack.run(key=key, request_id="spent 1", prompt={"simulated_cost_cents": 0.4})
    assert again["task_id"] == spent[1]["task_id"]
    assert stack.run(key=key, prompt={"simulated_cost_cents": 0.4})["blocked_reason"] == "monthly_cap_exceeded"
    order = ("--cost-cents", "0.05", "--reason", "the invoice", "--json")
    assert json.loads(stack.cli("reconcile", lost["task_id"], *order).stdout)["settled"] is True
    accounts = [str(name, "ascii") for name in stack.redis().scan_iter("{skeldir:*}:account:*")]
    homes = {(_in(name.split(":")[3], 4), int(name[len("{skeldir:")])) for name in accounts}
    assert homes == {(number, number) for number in range(4)}, "each is where it belongs, and nowhere else"
    for tenant, requests in by_inbox.items():
        load.ends[tenant] += [(0.0, str(task_id_of(UUID(tenant), TaskType.ROUTE, one))) for one in requests]
    eventually(load.is_booked, "each task has one end in the books", 60)
    for how in ("verify", "verify --history", "rebuild"):
        done = stack.cli("ledger", *how.split(), check=False)
        assert done.returncode == 0, (how, done.stdout, done.stderr)
    _it_is_restored_as_large(stack, key)
    same = json.loads(_replayed(stack, tmp_path))
    assert not same["changes"] and {one["replayed_cents"] == one["recorded_cents"] for one in same["tenants"]} == {True}


def _it_is_restored_as_large(stack: Stack, key: str) -> None:
    """The log is lost with its disk: the books know that it had grown, whatever the settings say."""
    stack.stop()
    shutil.rmtree(stack.data / "valkey")
    stack.cli("restore", "log")
    stack.start()
    shown = json.loads(stack.cli("partitions", "show", "--json").stdout)
    assert (shown["partitions"], shown["before"]) == (4, [2])
    assert stack.run(key=key, prompt={"simulated_cost_cents": 0.4})["blocked_reason"] == "monthly_cap_exceeded"


def _put(stack: Stack, load: Load, requests: dict[str, list[str]]) -> None:
    """Onto the inbox, one of each tenant after the other, for as long as it takes to grow."""
    log = stack.redis()
    for of_all in zip(*requests.values(), strict=True):
        for tenant, request in zip(requests, of_all, strict=True):
            task = {"tenant_id": tenant, "user_id": load.users[tenant], "request_id": request, "task_type": "route"}
            log.xadd("skeldir:inbox", {"data": json.dumps({**task, "prompt": {"simulated_cost_cents": 0.01}})})
        time.sleep(0.03)


def _replayed(stack: Stack, folder: Path) -> str:
    (folder / "same.json").write_text("{}")
    return stack.cli("replay", "--limits", str(folder / "same.json"), "--json").stdout


def _in(tenant: str, partitions: int) -> int:
    return partition_of(UUID(tenant), partitions)
