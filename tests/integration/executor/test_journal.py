"""The two server-side steps, asked directly: who may begin, who may end, and what a lost reply comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost

from services.executor import ends
from services.executor.delivery import Delivery, delivery_of
from services.executor.execution import Record, Stop
from services.executor.journal import GROUP, Journal, Verdict
from services.executor.providers import Answer
from shared.events.envelope import Envelope
from tests.integration.executor.conftest import Bench


class Case:
    """One delivered decision, and journals of several executors."""

    def __init__(self, bench: Bench, delivery: Delivery) -> None:
        self.bench = bench
        self.delivery = delivery

    def journal(self, executor: str) -> Journal:
        return Journal(self.bench.redis_as("executor"), executor, self.bench.settings)

    async def begin(self, journal: Journal, executor: str, number: int = 1) -> Verdict:
        event = self.delivery.follow(ends.started(self.delivery, number, executor), 1, number)
        return await journal.begin(self.delivery, number, event)

    async def finish(self, journal: Journal, owner: str) -> Verdict:
        return await journal.finish(self.delivery, owner, self.success())

    def success(self) -> Envelope:
        return self.delivery.follow(ends.succeeded(self.delivery, 1, Answer("x", 1, 1, 1), 1), 1)

    async def kinds(self) -> list[str]:
        return [event.type for event in await self.bench.outcomes()]


@pytest.fixture
async def case(bench: Bench, redis_as: Callable[[str], Redis]) -> Case:
    event = await bench.allow()
    redis = redis_as("executor")
    await redis.xgroup_create(bench.partition.decisions, GROUP, id="0")
    reply: Any = await redis.xreadgroup(GROUP, "reader", {bench.partition.decisions: ">"})
    ((entry_id, _),) = reply[bench.partition.decisions]
    return Case(bench, delivery_of(bench.partition, entry_id.decode(), event, redelivered=False))


async def test_one_executor_begins_and_the_same_one_ends(case: Case) -> None:
    one, two = case.journal("one"), case.journal("two")
    assert await case.begin(one, "one") == Verdict("begun")
    assert await case.begin(two, "two") == Verdict("attempting", "one")
    assert await case.finish(two, "two") == Verdict("attempting", "one")
    assert await case.finish(two, "") == Verdict("attempting", "one"), "nor can it be ended as if nobody had begun it"
    assert await one.look(case.delivery) == Record(str(case.delivery.decision_id), "attempting", "one", 0)
    assert await case.finish(one, "one") == Verdict("done")
    assert await case.finish(two, "one") == Verdict("ended", "one")
    assert await case.begin(two, "two") == Verdict("ended")
    assert await case.kinds() == ["attempt.started", "task.succeeded"]


@pytest.mark.parametrize("step", ["begin", "finish"])
async def test_what_is_over_is_acknowledged(case: Case, step: str) -> None:
    one = case.journal("one")
    await case.begin(one, "one")
    await case.finish(one, "one")
    # A second delivery of the same decision, as another entry.
    await case.bench.policy.xadd(case.bench.partition.decisions, case.delivery.event.to_entry())
    redis = case.bench.redis_as("executor")
    await redis.xreadgroup(GROUP, "reader", {case.bench.partition.decisions: ">"})
    (row,) = await case.bench.admin.xpending_range(case.bench.partition.decisions, GROUP, "-", "+", 10)
    again = Case(
        case.bench,
        delivery_of(case.delivery.partition, row["message_id"].decode(), case.delivery.event, redelivered=True),
    )
    verdict = await (again.begin(one, "one") if step == "begin" else again.finish(one, "one"))
    assert verdict.said == "ended" and await case.bench.pending() == 0


async def test_a_second_attempt_follows_the_first_of_the_same_executor(case: Case) -> None:
    one = case.journal("one")
    assert (await case.begin(one, "one", 2)).said == "attempting", "not before the first"
    assert await case.begin(one, "one", 1) == Verdict("begun")
    assert (await case.begin(one, "one", 1)).said == "attempting", "not the same once more"
    assert (await case.begin(one, "one", 3)).said == "attempting", "not with one left out"
    assert await case.begin(one, "one", 2) == Verdict("begun")
    assert await case.kinds() == ["attempt.started", "attempt.started"]


async def test_an_end_without_an_attempt_needs_an_untouched_task(case: Case) -> None:
    one = case.journal("one")
    event = case.delivery.follow(ends.blocked(case.delivery, Stop("because"), "0-0"), 1)
    assert await one.finish(case.delivery, "", event) == Verdict("done")
    assert await case.begin(one, "one") == Verdict("ended")


def loses_the_first_reply(journal: Journal) -> None:
    """The server does it, and its answer never arrives."""
    run = journal.pipeline.run
    lost: list[Any] = []

    async def runs(*args: Any) -> Any:
        reply = await run(*args)
        if not lost:
            lost.append(reply)
            raise ConnectionLost("the reply was lost")
        return reply

    journal.pipeline.run = runs  # type: ignore[method-assign, assignment]


async def test_a_begin_whose_reply_was_lost_has_begun_once(case: Case) -> None:
    one = case.journal("one")
    loses_the_first_reply(one)
    assert await case.begin(one, "one") == Verdict("begun")
    assert await case.kinds() == ["attempt.started"]


async def test_a_finish_whose_reply_was_lost_is_done_once(case: Case) -> None:
    one = case.journal("one")
    await case.begin(one, "one")
    loses_the_first_reply(one)
    assert await case.finish(one, "one") == Verdict("done")
    assert await case.kinds() == ["attempt.started", "task.succeeded"]


async def test_a_finish_that_was_lost_and_came_second_is_not_done(case: Case) -> None:
    """Another executor ended the task while this one could not be heard."""
    one, two = case.journal("one"), case.journal("two")
    await case.begin(one, "one")
    run = one.pipeline.run
    uncertain = case.delivery.follow(ends.uncertain(case.delivery, "one"), 1)

    async def overtaken(*args: Any) -> Any:
        one.pipeline.run = run  # type: ignore[method-assign]
        await two.finish(case.delivery, "one", uncertain)
        raise ConnectionLost("never sent")

    one.pipeline.run = overtaken  # type: ignore[method-assign, assignment]
    assert await case.finish(one, "one") == Verdict("ended", "two")
    assert await case.kinds() == ["attempt.started", "task.failed"]
