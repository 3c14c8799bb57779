"""How many partitions the log has, from outside: it says so itself, and nothing starts with another number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from uuid import UUID

import pytest

from shared.partitions import partition_of
from tests.load import Load
from tests.stack import Stack, eventually

SAID = "SKELDIR_PARTITIONS is 3, but the log has 2 partitions: unset it (the log says how many), or set it to 2"


def test_nothing_starts_with_another_number_than_the_log_has(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(SKELDIR_PARTITIONS="2")
    assert stack.run()["status"] == "success"
    other = {**stack.environment, "SKELDIR_PARTITIONS": "3", "SKELDIR_REDIS_URL": stack.ready["redis_url"]}
    other["SKELDIR_DATABASE_URL"] = stack.ready["database_url"]
    who = ("--tenant", stack.ready["tenant_id"], "--user", stack.ready["user_id"])
    for command in (("serve", "policy"), ("tail",), ("limits", "show", *who), ("restore", "gap")):
        refused = stack.cli_in(other, *command)
        assert (refused.returncode, refused.stderr.strip()) == (2, f"skeldir: {SAID}"), command
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


@pytest.mark.timeout(300)
def test_the_log_grows_under_load_and_no_client_sees_it(new_stack: Callable[..., Stack]) -> None:
    """From 2 to 4 partitions: half of the tenants go elsewhere, with what they have spent and what is not certain."""
    stack = new_stack(SKELDIR_PARTITIONS="2")
    load = Load(stack, 4, simulated_delay_ms=20)
    moved = next(one for one in load.users if _in(one, 4) == 2)
    old = stack.run(key=load.keys[moved], request_id="before")
    with load.running(clients_each=2):
        load.until_all_have(3)
        grown = stack.cli("partitions", "grow", "4").stdout
        assert "2 -> 4 partitions" in grown and "taken it up" not in grown, grown
        load.until_all_have(3)
    print(grown)
    shown = json.loads(stack.cli("partitions", "show", "--json").stdout)
    assert (shown["partitions"], shown["before"]) == (4, [2])
    assert stack.run(key=load.keys[moved], request_id="before")["task_id"] == old["task_id"]
    accounts = [str(name, "ascii") for name in stack.redis().scan_iter("{skeldir:*}:account:*")]
    homes = {(_in(name.split(":")[3], 4), int(name[len("{skeldir:")])) for name in accounts}
    assert homes == {(number, number) for number in range(4)}, "each is where it belongs, and nowhere else"
    load.ends[moved].append((0.0, old["task_id"]))
    eventually(load.is_booked, "each task has one end in the books", 60)
    for how in ("verify", "verify --history", "rebuild"):
        done = stack.cli("ledger", *how.split(), check=False)
        assert done.returncode == 0, (how, done.stdout, done.stderr)


def _in(tenant: str, partitions: int) -> int:
    return partition_of(UUID(tenant), partitions)
