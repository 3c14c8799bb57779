"""A log on three servers that is lost with all its disks, while tasks are under way: the books fill it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.acceptance.test_control import User
from tests.acceptance.test_restore import Lossy, lose_the_log, nothing_is_called_again
from tests.load import tenants
from tests.mock_provider import MockProvider
from tests.stack import eventually
from tests.valkeys import ValkeyCluster

PARTITIONS = 4
STUB = {"prompt": {"model": "stub:model", "text": "one of each partition"}}


class LossyCluster(Lossy):
    """The same on a cluster, which has no older copy."""

    def start_log(self, new_folder: Callable[[], Path]) -> None:
        self.cluster = ValkeyCluster(new_folder, replicas=(1, 1, 1))
        self.cluster.start()

    def stop_log(self) -> None:
        self.cluster.stop()

    @property
    def log_url(self) -> str:
        return self.cluster.url("admin")

    def log(self) -> Any:
        return redis.RedisCluster.from_url(self.cluster.primaries[0].url("admin"))

    def copy_log(self) -> None:
        pass

    def replace_log(self, copy: Path | None) -> None:
        assert copy is None
        self.cluster.lose()


@pytest.fixture(scope="module")
def lossy(new_folder: Callable[[], Path]) -> Iterator[LossyCluster]:
    with MockProvider() as provider:
        found = LossyCluster(new_folder, provider)
        try:
            yield found
        finally:
            found.close()


@pytest.mark.timeout(300)
def test_a_lost_cluster_comes_back_and_nothing_is_called_twice(lossy: LossyCluster) -> None:
    stack, users = lossy.stack, [User(lossy.stack, tenant) for tenant in tenants(PARTITIONS)]
    before = [user.run(request_id="before", **STUB) for user in users]
    for user, result in zip(users, before, strict=True):
        user.row(result)
    lose_the_log(lossy)
    assert " orders" in stack.cli("restore", "log").stdout
    assert "nothing is missing" in stack.cli("restore", "log").stdout
    assert lossy.policy() == lossy.expected, "policy's state is what it was"
    stack.start()
    eventually(lambda: stack.cli("doctor", check=False).returncode == 0, "all is well")
    nothing_is_called_again(lossy)
    attempts = "SELECT FROM events WHERE type = 'attempt.started'"
    for user, result in zip(users, before, strict=True):
        again = user.run(request_id="before", **STUB)
        assert (again["task_id"], again["output_text"]) == (result["task_id"], result["output_text"])
        user.row(user.run(**STUB))
        assert len(user.rows(attempts)) == 2
    verified = stack.cli("ledger", "verify", "--history", check=False)
    assert verified.returncode == 0, verified.stdout
