"""Recorded traffic, made by policy's own deciders and written straight into the books: for what reads them at scale.

`python -m tests.bench.recorded TASKS` fills a database of its own and measures `skeldir replay` on it.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger import migrate
from services.policy.decide import Owner, Wait, decide_end, decide_task
from services.policy.state import Account, Book, Circumstances, PolicyConfig
from shared.control_state import ControlState
from shared.events.decisions import TaskAllowed
from shared.events.envelope import Envelope, Payload, derived_id, follow, new
from shared.events.outcomes import AttemptStarted, TaskSucceeded, Usage
from shared.events.tasks import Task, TaskRef, TaskSubmitted, TaskType
from shared.money import from_cents
from shared.partitions import Partition
from shared.settings import Settings
from skeldir.embedded import EmbeddedPostgres
from skeldir.replay.reading import Question, replay
from skeldir.replay.scenario import Scenario
from tests.bench.figures import Figure

PARTITIONS, USERS = 4, 1000
START_MS = 1_795_000_000_000
COLUMNS = (
    "id", "partition", "stream", "entry_id", "type", "version", "time", "tenant_id", "user_id", "subject",
    "causation_id", "body",
)  # fmt: skip
Row = tuple[Any, ...]


def history(tasks: int, seed: int = 1) -> Iterator[tuple[int, str, Envelope]]:
    """Partition, stream and event: each task submitted, decided, called and settled before the next one."""
    dice = random.Random(seed)
    config = replace(PolicyConfig.from_settings(Settings()), monthly_cap=from_cents(100_000))
    books: dict[tuple[UUID, UUID | None], Account] = {}
    for number in range(tasks):
        who = dice.randrange(USERS)
        owner = Owner(UUID(int=1 + who % 40), UUID(int=1000 + who))
        user, tenant = (owner.tenant_id, owner.user_id), (owner.tenant_id, None)
        book = Book(books.get(user, Account()), books.get(tenant, Account()))
        now = Circumstances(START_MS + number * 20, config, ControlState())
        task = Task(
            task_id=UUID(int=10**12 + number),
            request_id=f"request-{number}",
            task_type=TaskType.ROUTE,
            provider="stub",
            model="model",
            prompt={"messages": [{"role": "user", "content": "x" * 300}]},
            fingerprint="f" * 64,
            max_cost=from_cents(dice.randrange(1, 9)),
        )
        ids = {"tenantid": owner.tenant_id, "userid": owner.user_id}
        submitted = new(
            TaskSubmitted(task=task),
            event_id=UUID(int=10**13 + number),
            source="/skeldir/gateway",
            subject=str(task.task_id),
            now_ms=now.now_ms,
            **ids,
        )
        partition = owner.tenant_id.int % PARTITIONS
        yield partition, "tasks", submitted
        said = decide_task(book, task, owner, derived_id(submitted.id, TaskAllowed.event_type), now)
        assert not isinstance(said, Wait), "nothing is in flight"
        for made in _followed(submitted, said.events, now.now_ms):
            yield partition, "decisions", made
        if said.hold is not None:
            allow = follow(submitted, said.events[0], source="/skeldir/policy", now_ms=now.now_ms)
            for event in _outcome(task, allow, now.now_ms + 5):
                yield partition, "outcomes", event
            assert isinstance(event.data, TaskSucceeded), "the last one"
            ended = decide_end(said.book, said.hold, event.data, replace(now, now_ms=now.now_ms + 9))
            for made in _followed(event, ended.events, now.now_ms + 9):
                yield partition, "decisions", made
            books[user], books[tenant] = ended.book.user, ended.book.tenant


def _followed(cause: Envelope, payloads: tuple[Payload, ...], now_ms: int) -> Iterator[Envelope]:
    for number, payload in enumerate(payloads):
        of_type = [one.event_type for one in payloads[:number]].count(payload.event_type)
        yield follow(cause, payload, source="/skeldir/policy", now_ms=now_ms, ordinal=of_type)


def _outcome(task: Task, allow: Envelope, now_ms: int) -> Iterator[Envelope]:
    ref = TaskRef.model_validate(task.model_dump(include=set(TaskRef.model_fields)))
    attempt = derived_id(allow.id, "attempt")
    started = AttemptStarted(task=ref, decision_id=allow.id, attempt_id=attempt, attempt_no=1, executor="one")
    yield follow(allow, started, source="/skeldir/executor", now_ms=now_ms - 3)
    success = TaskSucceeded(
        task=ref,
        decision_id=allow.id,
        attempt_id=attempt,
        was_cached=False,
        provider_attempted=True,
        output_text="y" * 300,
        usage=Usage(cost=task.max_cost // 2, latency_ms=5),
    )
    yield follow(allow, success, source="/skeldir/executor", now_ms=now_ms)


def rows(tasks: int) -> Iterator[Row]:
    """As the table `events` has them."""
    for number, (partition, stream, event) in enumerate(history(tasks)):
        ms = round(event.time.timestamp() * 1000)
        name = getattr(Partition(partition), stream)
        yield (
            event.id, partition, name, f"{ms}-{number}", event.type, 1, event.time, event.tenantid, event.userid,
            event.subject, event.causationid, event.to_json().decode(),
        )  # fmt: skip


async def fill(url: str, tasks: int) -> int:
    """Write them; how many events those were."""
    connection: Any = await asyncpg.connect(url)
    try:
        await connection.copy_records_to_table("events", records=rows(tasks), columns=COLUMNS, timeout=3600)
        await connection.execute("ANALYZE events")
        return int(await connection.fetchval("SELECT count(*) FROM events"))
    finally:
        await connection.close()


def measure(tasks: int) -> list[Figure]:
    """A replay of so many tasks, under a cap that half of the users pass."""
    with tempfile.TemporaryDirectory(prefix="skeldir-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            migrate.upgrade(server.url("skeldir_owner"))
            events = asyncio.run(fill(server.url("postgres"), tasks))
            config = replace(PolicyConfig.from_settings(Settings()), monthly_cap=from_cents(100_000))
            tighter = Scenario(replace(config, hourly_threshold=from_cents(100)))
            found = [Figure("recorded", f"{tasks:,} tasks, {events:,} events")]
            for name, scenario in (("the recorded limits", Scenario(config)), ("a fifth of the hourly limit", tighter)):
                report = replay(server.url("postgres"), Question(scenario, Scenario(config)))
                changed = sum(sums.decisions for sums in report.tally.changed.values())
                found.append(
                    Figure(
                        f"replay under {name}",
                        f"{report.tally.decisions / report.seconds:,.0f} tasks a second ({report.seconds:.1f} s, "
                        f"{report.processes} processes), {changed:,} decided otherwise",
                    )
                )
            return found
        finally:
            server.stop()


if __name__ == "__main__":
    for figure in measure(int(sys.argv[1])):
        print(f"{figure.what}: {figure.value}")
