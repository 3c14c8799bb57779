"""How many partitions the log has, from outside: it says so itself, and nothing starts with another number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from tests.stack import Stack

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
