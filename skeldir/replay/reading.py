"""The shell of the replay: the decisions in the books, in their order; each process some partitions. Memory: a page of
events, and what the replay holds: accounts of users and what is under way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

from services.ledger import event_pages
from services.ledger.archive.record import Archive, find_whole
from services.ledger.event_pages import Caused
from services.ledger.families import Family, families
from services.ledger.processes import Progress, Tell, piles, shared
from services.ledger.sessions import Connection, export, snapshot
from services.policy.state import Owner
from shared.control_state import order_of
from shared.events.control import parse_control
from shared.events.envelope import at
from shared.partitions import Partition
from shared.texts.cipher import DataKey, keys_in
from shared.texts.data_keys import open_keys
from shared.texts.master_key import MasterKeys
from skeldir.replay.members import read
from skeldir.replay.recording import DECIDED, Step, step_of
from skeldir.replay.replaying import Replay
from skeldir.replay.scenario import Orders, Scenario
from skeldir.replay.tally import Tally

TIMEOUT_S = 24 * 3600.0
# Fewer steps than this are replayed here: another process takes longer to start.
WORTH_A_PROCESS = 20_000
END_OF_TIME_MS = 4_102_444_800_000  # the year 2100

_SHARES = """
SELECT partition, count(*) AS steps FROM events
WHERE stream LIKE '%:decisions' AND type = ANY ($1) AND time < $2 GROUP BY partition
"""


@dataclass(frozen=True, slots=True)
class Question:
    """What is replayed: under which limits, and from when to when (milliseconds since the epoch)."""

    scenario: Scenario
    recorded: Scenario
    since_ms: int = 0
    until_ms: int = END_OF_TIME_MS
    masters: MasterKeys | None = None
    """By which prompts are read that the books have encrypted; without it they weigh what is left of them."""
    archive: Path | None = None
    """The folder of archived events."""


@dataclass(slots=True)
class ReplayReport:
    """What came of it."""

    tally: Tally = field(default_factory=Tally)
    partitions: int = 0
    processes: int = 1
    seconds: float = 0.0


def replay(database_url: str, question: Question, progress: Progress | None = None) -> ReplayReport:
    """Decide the recorded traffic again. The URL is the ledger's, or the owner's. Raises ArchiveProblem,
    UndecodableEvent, the driver's errors."""
    began = time.perf_counter()
    report = asyncio.run(_replay(database_url, question, progress))
    report.seconds = time.perf_counter() - began
    return report


async def _replay(database_url: str, question: Question, progress: Progress | None) -> ReplayReport:
    """Each process takes partitions, so that all have about as much to do: a tenant is in one partition only."""
    async with snapshot(database_url, timeout_s=TIMEOUT_S) as connection:
        orders = [(name, parse_control(body)) for name, body in await event_pages.of_control(connection)]
        rows = await connection.fetch(_SHARES, list(DECIDED), at(question.until_ms))
        archive = await find_whole(connection, question.archive)
        count = Counter({row["partition"]: row["steps"] for row in rows})
        for one in archive.files:
            count[one.chain] += one.rows // 2  # about
        steps = {one: sum(count[number] for number in one) for one in families(count, (order for _, order in orders))}
        in_order = sorted(orders, key=lambda one: order_of(one[0]))
        work = partial(_replay_some, database_url, await export(connection), question, in_order, archive)
        pieces = piles(steps, WORTH_A_PROCESS)
        tallies = await shared(work, pieces, sum(steps.values()), progress)
    report = ReplayReport(partitions=len(count), processes=len(pieces))
    for tally in tallies:
        report.tally.add(tally)
    return report


async def _replay_some(
    database_url: str,
    exported: str,
    question: Question,
    orders: Orders,
    archive: Archive,
    pile: Sequence[Family],
    tell: Tell,
) -> Tally:
    """Some families of partitions, one after another."""
    tally = Tally()
    async with snapshot(database_url, exported, timeout_s=TIMEOUT_S) as connection:
        await connection.execute("SET LOCAL work_mem = '128MB'")
        until = at(question.until_ms)
        for family in pile:
            streams = {number: Partition(number).decisions for number in family}
            one = Replay(orders, question.scenario, question.recorded, question.since_ms, tally)
            async for page in event_pages.with_causes(connection, streams, until, DECIDED, archive):
                keys = await _keys(connection, question.masters, page)
                for event in page:
                    one.take(step_of_row(keys, event))
                tell(len(page))
            one.finish()
    return tally


async def _keys(connection: Connection, masters: MasterKeys | None, page: Sequence[Caused]) -> Mapping[UUID, DataKey]:
    if masters is None:
        return {}
    bodies = (body for event in page for body in (event.body, event.cause) if body is not None)
    return await open_keys(connection, masters, (key for body in bodies for key in keys_in(body)))


def step_of_row(keys: Mapping[UUID, DataKey], event: Caused) -> Step | None:
    """The step that an event in the books is; None where it cannot be told. Raises UndecodableEvent."""
    if event.tenant_id is None or event.user_id is None:
        return None
    said = None if event.body is None else read(event.body)
    cause = None if event.cause is None else read(event.cause)
    at_ms, owner = round(event.time.timestamp() * 1000), Owner(event.tenant_id, event.user_id)
    return step_of(said, at_ms, event.causation_id, owner, cause, keys)
