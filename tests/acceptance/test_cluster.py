"""A log of three Valkeys in a cluster: the same cases, and a server that dies under load (`docs/cluster.md`)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis.crc import key_slot

from shared.partitions import Partition, partition_for
from shared.streams.connection import connect
from shared.streams.pipeline import ScriptPipeline
from shared.streams.replicated import NotReplicated
from skeldir.server_roles import LOG_ROLES
from tests.acceptance.cases import *  # noqa: F403  (the same cases, on the stack of this file)
from tests.load import Load, tenants
from tests.stack import Stack, eventually
from tests.valkeys import NODE_TIMEOUT_MS, ValkeyCluster

PARTITIONS = 4
PATIENT_MS = 60_000


@pytest.fixture(scope="module")
def cluster(new_folder: Callable[[], Path]) -> Iterator[ValkeyCluster]:
    """The first shard has a replica more: it may lose a server, and writes still reach another one."""
    running = ValkeyCluster(new_folder, replicas=(2, 1, 1))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def stack(cluster: ValkeyCluster, new_folder: Callable[[], Path]) -> Iterator[Stack]:
    """`skeldir up` on the cluster."""
    with Stack(new_folder(), {"SKELDIR_REDIS_URL": cluster.url("admin")}) as running:
        yield running


def test_the_partitions_are_on_all_three_servers(cluster: ValkeyCluster) -> None:
    """Else the other cases would show little."""
    ports = {cluster.primary_of(Partition(number).tag).port for number in range(PARTITIONS)}
    assert ports == {node.port for node in cluster.primaries}


def test_a_streamed_answer_and_an_order_cross_the_cluster(stack: Stack) -> None:
    body = {"model": "stub:model", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    for owner in tenants(PARTITIONS):
        reply = stack.post("/v1/chat/completions", body, key=stack.key(owner, str(uuid4())))
        assert reply.status_code == 200 and reply.text.rstrip().endswith("data: [DONE]"), reply.text
    try:
        stack.cli("kill-switch", "engage", "--reason", "drill")
        eventually(lambda: stack.run().get("blocked_reason") == "provider_kill_switch", "the stop")
    finally:
        stack.cli("kill-switch", "release", "--reason", "over")
    eventually(lambda: stack.run()["status"] == "success", "the release")


async def test_each_role_may_do_what_several_servers_take(cluster: ValkeyCluster) -> None:
    for role in LOG_ROLES:
        log = connect(cluster.url(role), client_name=f"test-{role}")
        assert await log.ping(), "it has been told where the slots are"
        node = connect(cluster.primaries[0].url(role), client_name="test")
        asked, waited, is_role = await node.together([("ASKING",), ("WAIT", 0, 1), ("ROLE",)])
        assert asked and waited >= 0 and is_role[0] == b"master"
        await asyncio.gather(log.aclose(), node.aclose())


@pytest.fixture
def patient(cluster: ValkeyCluster) -> Iterator[None]:
    """Servers that wait long for one that hangs, and do not replace it meanwhile."""
    cluster.configure("cluster-node-timeout", PATIENT_MS)
    yield
    cluster.configure("cluster-node-timeout", NODE_TIMEOUT_MS)


async def test_who_waits_for_a_server_that_hangs_keeps_nobody_from_the_others(
    cluster: ValkeyCluster, patient: None
) -> None:
    log = connect(cluster.url("admin"), client_name="test")
    pipeline = ScriptPipeline(log)
    keys = [next(name for n in range(100) if cluster.primary_of(name := f"k-{n}") is one) for one in cluster.primaries]
    assert [await pipeline.command("GET", one) for one in keys] == [None] * 3
    hung = cluster.primaries[2]
    hung.send(signal.SIGSTOP)
    try:
        waits = asyncio.create_task(pipeline.command("GET", keys[2]))
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            for _ in range(3):
                await asyncio.gather(*(pipeline.command("GET", one) for one in keys[:2]))
        assert not waits.done()
    finally:
        hung.send(signal.SIGCONT)
    assert await waits is None
    await log.aclose()


async def test_a_command_goes_on_to_the_server_that_a_slot_moved_to(cluster: ValkeyCluster) -> None:
    log = connect(cluster.url("admin"), client_name="test")
    stream = f"{{{uuid4()}}}:moves"
    first = await log.xadd(stream, {"n": "1"})
    slot, old = key_slot(stream.encode()), cluster.primary_of(stream)
    new = next(node for node in cluster.primaries if node is not old)
    old_id, new_id = old.ask("CLUSTER", "MYID").decode(), new.ask("CLUSTER", "MYID").decode()
    new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", old_id)
    old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
    # A key that is not there any more: `ASK` for this once.
    other = f"{stream[: stream.index('}') + 1]}:other"
    assert await log.xadd(other, {"n": "1"})
    old.ask("MIGRATE", "127.0.0.1", new.port, stream, 0, 1000, "AUTH2", "admin", "admin-password")
    for node in (new, old):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", new_id)
    second = await log.xadd(stream, {"n": "2"})  # `MOVED`
    (answer, written) = await log.together([("XLEN", stream), ("XADD", other, "*", "n", "2")])
    assert answer == 2 and written and [one for one, _ in await log.xrange(stream)] == [first, second]
    await log.aclose()


async def test_a_write_that_no_replica_has_does_not_count(cluster: ValkeyCluster) -> None:
    primary, (replica,) = cluster.primaries[1], cluster.replicas[1]
    stream = next(name for number in range(100) if cluster.primary_of(name := f"few-{number}") is primary)
    log, careless = [connect(cluster.url("admin"), client_name="test", min_replicas=few) for few in (None, 0)]
    await log.xadd(stream, {"n": "1"})
    replica.send(signal.SIGSTOP)
    try:
        with pytest.raises(NotReplicated, match="SKELDIR_MIN_REPLICAS"):
            await log.xadd(stream, {"n": "2"})
        assert await log.xlen(stream) == 2, "it is there all the same, as after a lost reply"
        await careless.xadd(stream, {"n": "3"})
    finally:
        replica.send(signal.SIGCONT)
    await asyncio.gather(log.aclose(), careless.aclose())


@pytest.mark.timeout(300)
def test_a_dead_server_costs_its_tenants_seconds_and_nobody_a_task(stack: Stack, cluster: ValkeyCluster) -> None:
    """Last: the cluster is not the same afterwards."""
    load, victim = Load(stack, PARTITIONS, refusals={503}), cluster.primaries[0]
    homes = {one: cluster.primary_of(partition_for(UUID(one), PARTITIONS).tag) for one in load.users}
    with load.running(clients_each=2):
        load.until_all_have(5)
        victim.send(signal.SIGKILL)
        load.until_all_have(5, after_s=0.5)
    gaps = [(round(load.longest_gap(one), 1), "dead" if home is victim else "alive") for one, home in homes.items()]
    print(f"\nstood still: {gaps} s")
    eventually(load.is_booked, "each task has one end in the books", 60)
    verified = stack.cli("ledger", "verify", "--history", check=False)
    assert verified.returncode == 0, verified.stdout


@pytest.mark.timeout(300)
def test_it_grows_under_load_also_on_what_is_left(stack: Stack) -> None:
    """Last of all: the partitions are others afterwards, on other servers."""
    load = Load(stack, 2 * PARTITIONS)
    with load.running(clients_each=1):
        load.until_all_have(2)
        print(stack.cli("partitions", "grow", str(2 * PARTITIONS)).stdout)
        load.until_all_have(2)
    body = {"model": "stub:model", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    for of_tenant in load.keys.values():
        reply = stack.post("/v1/chat/completions", body, key=of_tenant)
        assert reply.status_code == 200 and reply.text.rstrip().endswith("data: [DONE]"), reply.text
    verified = stack.cli("ledger", "verify", "--history", check=False)
    assert verified.returncode == 0, verified.stdout
