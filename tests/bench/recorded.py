"""Recorded traffic, made by policy's own deciders and written straight into the books: for what reads them at scale.

Each partition is made by itself, so processes share the work. The chain, the checkpoints and every balance are true;
projections there are none yet: a rebuild makes them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from heapq import merge
from itertools import islice
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger import months
from services.ledger.chain.link import COLUMNS, link, start
from services.policy.decide import Owner, Wait, decide_end, decide_task
from services.policy.state import Account, Book, Circumstances, PolicyConfig
from shared.control_state import ControlState
from shared.events.decisions import TaskAllowed
from shared.events.envelope import Envelope, Payload, at, derived_id, follow, new
from shared.events.outcomes import AttemptStarted, TaskFailed, TaskSucceeded, Usage
from shared.events.tasks import Task, TaskSubmitted, TaskType, ref_of, task_id_of
from shared.money import from_cents
from shared.partitions import Partition, partition_of
from shared.settings import Settings

START_MS = 1_795_000_000_000
MONTH_MS = 28 * 24 * 3_600_000  # the shortest: none is left out
CHUNK = 20_000
CONFIG = replace(PolicyConfig.from_settings(Settings()), monthly_cap=from_cents(100_000))
TYPES, MODELS = tuple(TaskType), ("small", "middle", "large", "other")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many tasks, of how many tenants with how many users each, and how far apart in time."""

    tasks: int
    tenants: int = 40
    users: int = 25
    gap_ms: int = 20
    partitions: int = 4
    start_ms: int = START_MS

    def owners(self, partition: int) -> list[Owner]:
        """The users who live in a partition."""
        tenants = [UUID(int=1 + number) for number in range(self.tenants)]
        here = [tenant for tenant in tenants if partition_of(tenant, self.partitions) == partition]
        return [
            Owner(tenant, UUID(int=1000 + tenant.int * self.users + user))
            for tenant in here
            for user in range(self.users)
        ]

    @property
    def until_ms(self) -> int:
        """When the last task has ended."""
        return self.start_ms + self.tasks * self.gap_ms + 60_000


def history(traffic: Traffic) -> Iterator[tuple[int, str, Envelope]]:
    """Partition, stream and event, in the order of time."""
    sources = [
        ((event.time, partition, stream, event) for stream, event in of_partition(traffic, partition))
        for partition in range(traffic.partitions)
    ]
    return (found[1:] for found in merge(*sources, key=lambda one: one[0]))


def of_partition(traffic: Traffic, partition: int) -> Iterator[tuple[str, Envelope]]:
    """Stream and event: each task is submitted, decided, called and settled before the next one."""
    dice = random.Random(partition)
    owners = traffic.owners(partition)
    books: dict[tuple[UUID, UUID | None], Account] = {}
    for number in range(partition, traffic.tasks, traffic.partitions):
        owner = dice.choice(owners)
        user, tenant = (owner.tenant_id, owner.user_id), (owner.tenant_id, None)
        book = Book(books.get(user, Account()), books.get(tenant, Account()))
        now = Circumstances(traffic.start_ms + number * traffic.gap_ms, CONFIG, ControlState())
        submitted = _submitted(number, owner, dice, now.now_ms)
        yield "tasks", submitted
        task = submitted.data.task  # type: ignore[attr-defined]
        said = decide_task(book, task, owner, derived_id(submitted.id, TaskAllowed.event_type), now)
        assert not isinstance(said, Wait), "nothing is in flight"
        decisions = list(_followed(submitted, said.events, now.now_ms))
        yield from (("decisions", event) for event in decisions)
        if said.hold is not None:
            outcomes = list(_outcomes(task, decisions[0], dice, now.now_ms, traffic.gap_ms * traffic.partitions))
            yield from (("outcomes", event) for event in outcomes)
            end_ms = round(outcomes[-1].time.timestamp() * 1000) + 2
            ended = decide_end(said.book, said.hold, outcomes[-1].data, Circumstances(end_ms, CONFIG, now.control))  # type: ignore[arg-type]
            yield from (("decisions", event) for event in _followed(outcomes[-1], ended.events, end_ms))
            books[user], books[tenant] = ended.book.user, ended.book.tenant


def _submitted(number: int, owner: Owner, dice: random.Random, now_ms: int) -> Envelope:
    request_id, task_type = f"request-{number}", dice.choice(TYPES)
    task = Task(
        task_id=task_id_of(owner.tenant_id, task_type, request_id),
        request_id=request_id,
        task_type=task_type,
        provider="stub",
        model=dice.choice(MODELS),
        prompt={"messages": [{"role": "user", "content": "x" * 300}]},
        fingerprint="f" * 64,
        max_cost=from_cents(dice.randrange(1, 9)),
        cache_key=f"{number:064x}",
        kill_switch=dice.random() < 0.04,
    )
    return new(
        TaskSubmitted(task=task),
        event_id=UUID(int=10**13 + number),
        source="/skeldir/gateway",
        subject=str(task.task_id),
        now_ms=now_ms,
        tenantid=owner.tenant_id,
        userid=owner.user_id,
    )


def _followed(cause: Envelope, payloads: tuple[Payload, ...], now_ms: int) -> Iterator[Envelope]:
    for number, payload in enumerate(payloads):
        of_type = [one.event_type for one in payloads[:number]].count(payload.event_type)
        yield follow(cause, payload, source="/skeldir/policy", now_ms=now_ms, ordinal=of_type)


def _outcomes(task: Task, allow: Envelope, dice: random.Random, now_ms: int, room_ms: int) -> Iterator[Envelope]:
    """Of 100 calls 5 are answered from the cache, and 4 fail. Each ends before the next task comes."""
    luck, latency_ms = dice.random(), int(dice.lognormvariate(6.5, 0.8))
    at_ms = now_ms + 3 + min(latency_ms, max(0, room_ms - 10))
    about: dict[str, Any] = {"task": ref_of(task), "decision_id": allow.id}
    called, made = luck >= 0.05, partial(follow, allow, source="/skeldir/executor")
    if called:
        about["attempt_id"] = derived_id(allow.id, "attempt")
        yield made(AttemptStarted(**about, attempt_no=1, executor="one"), now_ms=now_ms + 2)
    usage = Usage(cost=task.max_cost // 2 if luck >= 0.09 else 0, latency_ms=latency_ms) if called else Usage()
    if called and luck < 0.09:
        why = {"reason": "provider_error:APIError", "spend": "none", "counts_for_breaker": True}
        yield made(TaskFailed(**about, **why, provider_attempted=True, usage=usage), now_ms=at_ms)
        return
    success = TaskSucceeded(
        **about, was_cached=not called, provider_attempted=called, output_text="y" * 300, usage=usage
    )
    yield made(success, now_ms=at_ms)


@dataclass(slots=True)
class Written:
    """What is written of a partition: its chain, and up to where each stream is."""

    partition: int
    length: int = 0
    head: bytes = b""
    streams: dict[str, str] | None = None


def rows(traffic: Traffic, written: Written) -> Iterator[Row]:
    """As the table `events` has them, each with its place in the chain."""
    known = Partition(written.partition)
    written.head, written.streams = start(written.partition), {}
    for stage, event in of_partition(traffic, written.partition):
        written.length += 1
        stream, entry_id = getattr(known, stage), f"{round(event.time.timestamp() * 1000)}-{written.length}"
        values = (
            event.id, written.partition, stream, entry_id, event.type, 1, event.time, event.tenantid, event.userid,
            event.subject, event.correlationid, event.causationid, event.to_json().decode(),
        )  # fmt: skip
        written.head = link(written.head, values)
        written.streams[stream] = entry_id
        yield (*values, written.length, written.head)


async def fill(url: str, traffic: Traffic, said: Callable[[int], None] = lambda _: None) -> int:
    """Write all of it; how many events those are. The URL is the superuser's: nobody else may COPY."""
    connection: Any = await asyncpg.connect(url)
    try:
        times = range(traffic.start_ms, traffic.until_ms + MONTH_MS, MONTH_MS)
        await months.make(connection, months.months_of(map(at, times)))
    finally:
        await connection.close()
    processes = min(traffic.partitions, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()
        work = [loop.run_in_executor(pool, _fill, url, traffic, one) for one in range(traffic.partitions)]
        events = 0
        for done in asyncio.as_completed(work):
            events += await done
            said(events)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM (ANALYZE) events", timeout=3600)
    finally:
        await connection.close()
    return events


def _fill(url: str, traffic: Traffic, partition: int) -> int:
    return asyncio.run(_write(url, traffic, partition))


async def _write(url: str, traffic: Traffic, partition: int) -> int:
    written = Written(partition)
    source, columns = rows(traffic, written), (*COLUMNS, "chain_no", "chain_hash")
    connection: Any = await asyncpg.connect(url)
    try:
        while page := list(islice(source, CHUNK)):
            await connection.copy_records_to_table("events", records=page, columns=columns, timeout=600)
        await connection.execute(
            "INSERT INTO event_chains (chain, length, head) VALUES ($1, $2, $3)",
            partition,
            written.length,
            written.head,
        )
        streams = written.streams or {}
        await connection.execute(
            "INSERT INTO checkpoints (stream, entry_id) SELECT * FROM unnest($1::text[], $2::text[])",
            list(streams),
            list(streams.values()),
        )
    finally:
        await connection.close()
    return written.length
