"""The shell of the replay: cursors over the books, some partitions in each process. Memory: a page of events, and what
the replay holds: accounts of users and what is under way."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger.sessions import Connection, write_as_ledger
from services.policy.decide import Owner
from shared.control_state import order_of
from shared.events.control import parse_control
from shared.events.envelope import at
from shared.events.registry import EVENTS
from shared.partitions import Partition
from skeldir.replay.recording import DECIDED, Step, step_of
from skeldir.replay.replaying import Replay
from skeldir.replay.scenario import Orders, Scenario
from skeldir.replay.tally import Tally

PAGE = 2000
TIMEOUT_S = 24 * 3600.0
# Fewer steps than this are replayed here: another process takes longer to start.
WORTH_A_PROCESS = 20_000
END_OF_TIME_MS = 4_102_444_800_000  # the year 2100

Progress = Callable[[int, int], None]
"""Told how many steps were replayed, of how many."""

_SHARES = """
SELECT partition, count(*) AS steps FROM events
WHERE stream LIKE '%:decisions' AND type = ANY ($1) AND time < $2 GROUP BY partition ORDER BY 2 DESC
"""
_IN_ORDER = """
SELECT id, causation_id, type <> 'task.allowed' AS needs_cause FROM events
WHERE partition = $1 AND stream = $2 AND type = ANY ($3) AND time < $4
ORDER BY split_part(entry_id, '-', 1)::bigint, split_part(entry_id, '-', 2)::bigint
"""
# The body of a reservation's end says nothing that its cause does not.
_PAGE = """
SELECT id, time, tenant_id, user_id, CASE WHEN type <> 'reservation.ended' THEN body END AS body FROM events
WHERE id = ANY ($1)
"""


@dataclass(frozen=True, slots=True)
class Question:
    """What is replayed: under which limits, and from when to when (milliseconds since the epoch)."""

    scenario: Scenario
    recorded: Scenario
    since_ms: int = 0
    until_ms: int = END_OF_TIME_MS


@dataclass(slots=True)
class ReplayReport:
    """What came of it."""

    tally: Tally = field(default_factory=Tally)
    partitions: int = 0
    processes: int = 1
    seconds: float = 0.0


def replay(database_url: str, question: Question, progress: Progress | None = None) -> ReplayReport:
    """Decide the recorded traffic again. The URL is the ledger's, or the owner's. Raises UndecodableEvent, driver's
    errors."""
    began = time.perf_counter()
    orders, shares = asyncio.run(_survey(database_url, question))
    total = sum(shares.values())
    report = ReplayReport(partitions=len(shares))
    said: Progress = progress or (lambda done, total: None)
    if total < WORTH_A_PROCESS or len(shares) < 2:
        done = _Counter(lambda steps: said(steps, total))
        report.tally = asyncio.run(_replay(database_url, question, orders, list(shares), done))
    else:
        report.processes = min(len(shares), os.cpu_count() or 1)
        report.tally = _in_processes(database_url, question, orders, shares, report.processes, said)
    report.seconds = time.perf_counter() - began
    return report


async def _survey(database_url: str, question: Question) -> tuple[Orders, dict[int, int]]:
    """The orders, and how many steps each partition has, the largest first."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await write_as_ledger(connection)
            rows = await connection.fetch("SELECT entry_id, body FROM events WHERE partition IS NULL")
            shares = await connection.fetch(_SHARES, list(DECIDED), at(question.until_ms))
    finally:
        await connection.close()
    known = [(row["entry_id"], parse_control(row["body"])) for row in rows]
    return sorted(known, key=lambda one: order_of(one[0])), {row["partition"]: row["steps"] for row in shares}


def _in_processes(
    database_url: str, question: Question, orders: Orders, shares: dict[int, int], processes: int, said: Progress
) -> Tally:
    """Each process takes partitions, so that all have about as much to do: a tenant is in one partition only."""
    context = multiprocessing.get_context("spawn")
    piles: list[list[int]] = [[] for _ in range(processes)]
    for partition in shares:
        min(piles, key=lambda pile: sum(shares[one] for one in pile)).append(partition)
    news: Any = context.Queue(maxsize=10_000)
    tally, done = Tally(), 0
    with ProcessPoolExecutor(processes, context, _set_news, (news,)) as pool:
        work = [pool.submit(_in_a_process, database_url, question, orders, pile) for pile in piles]
        while not all(map(Future.done, work)):
            try:
                done += news.get(timeout=0.2)
            except queue.Empty:
                continue
            said(done, sum(shares.values()))
        for one in work:
            tally.add(one.result())
    return tally


_news: Any = None


def _set_news(news: Any) -> None:
    global _news  # one for each process: a queue cannot be an argument of a task
    _news = news


def _in_a_process(database_url: str, question: Question, orders: Orders, partitions: list[int]) -> Tally:
    return asyncio.run(_replay(database_url, question, orders, partitions, _Counter(None)))


class _Counter:
    """Tells how far the replay is: the caller the sum, or the parent process what is new."""

    def __init__(self, said: Callable[[int], None] | None) -> None:
        self._said = said
        self._steps = 0

    def add(self, steps: int) -> None:
        self._steps += steps
        if self._said is not None:
            self._said(self._steps)
        elif not _news.full():
            _news.put(steps)


async def _replay(
    database_url: str, question: Question, orders: Orders, partitions: Sequence[int], done: _Counter
) -> Tally:
    tally = Tally()
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await write_as_ledger(connection)
            await connection.execute("SET LOCAL work_mem = '128MB'")
            for partition in partitions:
                one = Replay(orders, question.scenario, question.recorded, question.since_ms)
                async for page in _pages(connection, partition, question.until_ms):
                    for step in page:
                        one.take(step)
                    done.add(len(page))
                one.finish()
                tally.add(one.tally)
    finally:
        await connection.close()
    return tally


async def _pages(connection: Connection, partition: int, until_ms: int) -> AsyncIterator[list[Step | None]]:
    """The server sorts ids, which are small; bodies are fetched by page."""
    arguments = (partition, Partition(partition).decisions, list(DECIDED), at(until_ms))
    cursor = await connection.cursor(_IN_ORDER, *arguments)
    while ids := await cursor.fetch(PAGE):
        wanted = {row["id"] for row in ids} | {row["causation_id"] for row in ids if row["needs_cause"]}
        rows = {row["id"]: row for row in await connection.fetch(_PAGE, list(wanted))}
        yield [
            _step(rows[row["id"]], row["causation_id"], rows.get(row["causation_id"]) if row["needs_cause"] else None)
            for row in ids
        ]


def _step(row: Any, cause_id: UUID | None, cause: Any) -> Step | None:
    if row["tenant_id"] is None or row["user_id"] is None:
        return None
    said = None if row["body"] is None else EVENTS.payload(row["body"])
    owner = Owner(row["tenant_id"], row["user_id"])
    return step_of(said, row["time"], cause_id, owner, EVENTS.payload(cause["body"]) if cause is not None else None)
