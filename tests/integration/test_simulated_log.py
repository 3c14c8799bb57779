"""The simulation's model of the log and the real scripts answer the same, step by step, to the same questions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from services.executor import ends
from services.executor.delivery import Delivery, delivery_of
from services.executor.journal import GROUP, Journal
from services.executor.providers import Answer
from services.gateway.acceptance import Acceptor
from services.gateway.history import History
from services.gateway.recognition import Recognition
from services.policy.commit import commands
from services.policy.desk import Changes
from services.policy.inputs import Input
from shared.events.envelope import Envelope, Payload
from shared.partitions import Partition
from shared.settings import Settings
from shared.streams.growing import Partitions
from shared.streams.lease import Fenced, Lease
from tests.simulation.log import PARTITION, Log
from tests.unit.policy.world import World

STEPS = 60
LEASE_MS = 600_000
EXECUTORS = ("one", "two")
RedisAs = Callable[[str], Redis]


class Pair:
    """The model and the server, asked the same."""

    def __init__(self, redis_as: RedisAs) -> None:
        self.world = World()
        self.model = Log(self.world.now_ms)
        self.partition = Partition(uuid4().int % 1_000_000 + 2_000_000)
        self.admin = redis_as("admin")
        self.leases = {
            owner: Lease(redis_as("policy"), self.partition.lease("policy"), owner, LEASE_MS) for owner in ("p", "q")
        }
        self.journals = {one: Journal(redis_as("executor"), one, Settings()) for one in EXECUTORS}
        self.decisions: list[tuple[Delivery, Delivery]] = []
        self.token = 0

    async def lease(self, owner: str, how: str) -> None:
        real = await (self.leases[owner].take() if how == "take" else self.leases[owner].renew())
        assert self.model.lease(owner, LEASE_MS, how) == real
        self.token = max(self.token, real)

    async def lapse(self) -> None:
        """The lease runs out."""
        self.model.hashes[PARTITION.lease("policy")]["expires_ms"] = 0
        await self.admin.hset(self.partition.lease("policy"), "expires_ms", 0)

    async def commit(self, changes: Changes, token: int, owner: str = "p") -> None:
        simulated, _ = commands(PARTITION, changes, {}, 60_000)
        batch, keys = commands(self.partition, changes, {}, 60_000)
        try:
            self.model.fenced(owner, token, simulated)
        except Fenced:
            with pytest.raises(Fenced):
                await self.leases[owner].commit(token, batch, keys)
            return
        await self.leases[owner].commit(token, batch, keys)
        for event in changes.events:
            if event.type == "task.allowed":
                await self._deliver(event)

    async def _deliver(self, event: Envelope) -> None:
        entry = next(one for one in self.model.group_read("x", 1000) if str(event.id).encode() in one.data)
        connection = self.journals["one"].pipeline
        reply: Any = await connection.command(
            "XREADGROUP", "GROUP", GROUP, "x", "COUNT", 1000, "STREAMS", self.partition.decisions, ">"
        )
        entry_id = next(
            entry_id
            for entry_id, fields in reply[self.partition.decisions]
            if str(event.id).encode() in fields[b"data"]
        )
        delivered = delivery_of(self.partition, entry_id.decode(), event, redelivered=False)
        self.decisions.append((replace(delivered, partition=PARTITION, entry_id=entry.entry_id), delivered))

    async def begin(self, at: int, executor: str, number: int) -> None:
        simulated, delivery = self.decisions[at]
        event = delivery.follow(ends.started(delivery, number, executor), self.world.now_ms, number)
        said, who = self.model.begin(simulated, executor, number, event)
        real = await self.journals[executor].begin(delivery, number, event)
        assert real.said == said and (said != "attempting" or real.who == who)

    async def finish(self, at: int, executor: str, owner: str, end: Payload) -> Envelope | None:
        simulated, delivery = self.decisions[at]
        event = delivery.follow(end, self.world.now_ms)
        lost = getattr(end, "spend", "") == "uncertain" and event.type == "decision.expired"
        said, who = self.model.finish(simulated, owner, event, lost=lost)
        real = await self.journals[executor].finish(delivery, owner, event)
        assert real.said == said and (said != "attempting" or real.who == who)
        return event if said == "done" else None

    async def same(self) -> None:
        """Both hold the same."""
        for stream in ("decisions", "outcomes"):
            entries: Any = await self.admin.xrange(getattr(self.partition, stream))
            assert [fields[b"data"] for _, fields in entries] == [one.data for one in self.model.streams[stream]]
        for _, delivery in self.decisions[-1:]:
            task_id = delivery.allowed.task.task_id
            real = {k.decode(): v.decode() for k, v in (await self.admin.hgetall(self.partition.task(task_id))).items()}
            simulated = {name: str(value) for name, value in self.model.record(task_id).items()}
            for name in ("state", "decision", "owner", "attempts", "fingerprint"):
                assert real.get(name) == simulated.get(name), name
            assert real.get("lost", "0") == simulated.get("lost", "0")
        # Entries that are no work (settlements) stay pending until a worker reads them: here, nobody does.
        pending: Any = await self.admin.xpending_range(self.partition.decisions, GROUP, "-", "+", 1000)
        waiting = {row["message_id"].decode() for row in pending}
        ours = [real.entry_id in waiting for _, real in self.decisions]
        assert ours == [int(model.entry_id.split("-")[0]) in self.model.pending for model, _ in self.decisions]


@pytest.mark.parametrize("seed", range(25))
async def test_the_model_answers_as_the_server_does(seed: int, redis_as: RedisAs) -> None:
    dice, pair = random.Random(seed), Pair(redis_as)
    await pair.admin.xgroup_create(pair.partition.decisions, GROUP, id="0", mkstream=True)
    await pair.lease("p", "renew")  # there is none yet
    await pair.lease("p", "take")
    world = pair.world
    world.allow()  # so that the accounts are in memory
    turn = world.new_turn()
    turn.tasks([Input("tasks", "1-0", world.task(retry_safe=True))])
    await pair.commit(turn.changes, pair.token)
    for step in range(STEPS):
        at = dice.randrange(len(pair.decisions))
        executor = dice.choice(EXECUTORS)
        match dice.randrange(8):
            case 0:
                await pair.lease(dice.choice("pq"), dice.choice(("take", "renew")))
            case 1:
                await pair.lapse()
            case 2:
                empty = Changes()
                await pair.commit(empty, dice.choice((pair.token, pair.token - 1, pair.token + 1)), dice.choice("pq"))
            case 3 | 4:
                await pair.begin(at, executor, dice.choice((1, 1, 2, 3)))
            case _:
                _, delivery = pair.decisions[at]
                end: Payload = dice.choice(
                    (
                        ends.expired(delivery),
                        ends.expired(delivery, lost=True),
                        ends.expired(delivery, lost=True),
                        ends.succeeded(delivery, 1, Answer("x", 1, 1, 1), 1),
                        ends.uncertain(delivery, "gone"),
                    )
                )
                done = await pair.finish(at, executor, dice.choice(("", *EXECUTORS)), end)
                if done is not None and done.type == "decision.expired":
                    turn = world.new_turn()
                    turn.outcomes([Input("outcomes", f"{step + 2}-0", done)])
                    await pair.commit(turn.changes, pair.token)
        await pair.same()


async def test_the_model_accepts_as_the_server_does(redis_as: RedisAs) -> None:
    dice, world = random.Random(1), World()
    acceptor, model = (
        Acceptor(redis_as("gateway"), Recognition(History(None)), Partitions(4), Settings()),
        Log(world.now_ms),
    )
    run = uuid4().hex
    for _ in range(60):
        event = world.task(request_id=f"{run}-{dice.randrange(12)}", fingerprint=dice.choice("abc") * 64)
        assert (await acceptor.accept(event, named=False)).status == model.accept(event)
