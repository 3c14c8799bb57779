"""The cache and single-flight: one call for one question, and never another's answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from services.executor.providers import Answer, Call, ProviderFailure
from shared.events.decisions import BlockReason, TaskBlocked
from shared.events.outcomes import TaskFailed, TaskSucceeded
from shared.money import from_cents
from tests.integration.executor.conftest import TWO_LIVE, Bench, Gate, OnlyCalls, until

PROMPT = {"input": "what is it?"}


async def test_the_second_identical_task_is_answered_from_the_cache(bench: Bench) -> None:
    gate = Gate(is_open=True)
    async with bench.executor({"stub": gate}):
        await bench.allow(PROMPT, cached=True)
        await bench.ends(1)
        event = await bench.allow(PROMPT, cached=True)
        first, second = (end.data for end in await bench.ends(2))
    assert isinstance(first, TaskSucceeded) and isinstance(second, TaskSucceeded)
    assert (second.was_cached, second.provider_attempted, second.usage.cost) == (True, False, 0)
    assert second.output_text == first.output_text
    assert second.response_metadata["boundary_id"] == "b07_p3_aisuite_chokepoint"
    assert len(gate.calls) == 1 and (await bench.result(event))["was_cached"] is True
    assert len(await bench.outcomes("attempt.started")) == 1


@pytest.mark.parametrize("other", ["watermark", "user", "tenant", "prompt", "uncached"])
async def test_another_question_misses(bench: Bench, other: str) -> None:
    gate = Gate(is_open=True)
    different = {
        "watermark": bench.allowed(PROMPT, cached=True, cache_watermark=1),
        "user": bench.allowed(PROMPT, cached=True, user=uuid4()),
        "tenant": bench.allowed(PROMPT, cached=True, tenant=uuid4()),
        "prompt": bench.allowed({"input": "what else?"}, cached=True),
        "uncached": bench.allowed(PROMPT),
    }[other]
    async with bench.executor({"stub": gate}):
        await bench.allow(PROMPT, cached=True)
        await bench.ends(1)
        await bench.decide(different)
        second = (await bench.ends(2))[1].data
    assert isinstance(second, TaskSucceeded) and not second.was_cached
    assert len(gate.calls) == 2


async def test_a_task_without_the_cache_does_not_fill_it(bench: Bench) -> None:
    async with bench.executor():
        await bench.allow(PROMPT)
        await bench.ends(1)
        await bench.allow(PROMPT, cached=True)
        second = (await bench.ends(2))[1].data
    assert isinstance(second, TaskSucceeded) and not second.was_cached


async def test_an_older_watermark_misses_and_does_not_push_out_the_newer_answer(bench: Bench) -> None:
    gate = Gate(is_open=True)
    served: list[tuple[int, bool]] = []
    async with bench.executor({"stub": gate}):
        # 9 and 10: as digits, not as text; the last pair differs only beyond what a double can hold.
        for at, watermark in enumerate((9, 10, 9, 10, 2**53, 2**53 + 1, 2**53, 2**53 + 1)):
            await bench.allow(PROMPT, cached=True, cache_watermark=watermark)
            end = (await bench.ends(at + 1))[at].data
            assert isinstance(end, TaskSucceeded)
            served.append((watermark, end.was_cached))
    assert [cached for _, cached in served] == [False, False, False, True, False, False, False, True]


async def test_a_failure_is_not_cached(bench: Bench) -> None:
    async with bench.executor():
        await bench.allow({"raise_error": True}, cached=True)
        await bench.ends(1)
        await bench.allow({"raise_error": True}, cached=True)
        assert all(isinstance(end.data, TaskFailed) for end in await bench.ends(2))
    assert len(await bench.outcomes("attempt.started")) == 2


async def test_a_cache_only_decision_is_answered_from_the_cache(bench: Bench) -> None:
    gate = Gate(is_open=True)
    async with bench.executor({"stub": gate}):
        await bench.allow(PROMPT, cached=True)
        await bench.ends(1)
        await bench.allow(PROMPT, cached=True, cache_only=True)
        second = (await bench.ends(2))[1].data
    assert isinstance(second, TaskSucceeded) and second.was_cached and len(gate.calls) == 1


@pytest.mark.parametrize("cached", [True, False])
async def test_a_cache_only_decision_without_an_answer_is_blocked(bench: Bench, cached: bool) -> None:
    gate = Gate(is_open=True)
    event = await bench.allow(PROMPT, cached=cached, cache_only=True)
    async with bench.executor({"stub": gate}):
        end = await bench.end(TaskBlocked)
    assert (end.reason, end.decision_id) == (BlockReason.BREAKER_OPEN, event.id)
    assert gate.calls == [] and await bench.outcomes("attempt.started") == []


async def test_ten_identical_tasks_at_once_make_one_call(bench: Bench) -> None:
    """Whichever of two executors they reach: one reads no more once it leads, so the other gets the rest."""
    gate = Gate()
    async with bench.executor({"stub": gate}, name="leads", **TWO_LIVE) as leads:
        leads.worker.max_held = 3
        await bench.decide(*(bench.allowed(PROMPT, cached=True) for _ in range(3)))
        await until(lambda: bool(gate.calls) and len(leads.worker._held) == 3)
        async with bench.executor({"stub": gate}, name="waits", **TWO_LIVE) as waits:
            await bench.decide(*(bench.allowed(PROMPT, cached=True) for _ in range(7)))
            # One may be in the leader's hand already; those here have looked, and stepped aside to wait.
            await until(lambda: len(waits.worker._held) >= 6 and waits.room.free == waits.room.places)
            gate.open()
            ends = [end.data for end in await bench.ends(10)]
    assert len(gate.calls) == 1
    assert sum(isinstance(end, TaskSucceeded) and end.was_cached for end in ends) == 9
    assert await bench.admin.keys(f"{bench.partition.tag}:flight:*") == []


async def test_those_that_wait_for_an_identical_call_take_no_place(bench: Bench) -> None:
    gate = Gate()
    async with bench.executor({"stub": gate}, executor_concurrency=2) as executor:
        await bench.decide(*(bench.allowed(PROMPT, cached=True) for _ in range(10)))
        await until(lambda: len(executor.worker._held) == 10 and executor.room.free == 1)
        other = await bench.allow({"input": "something else"})
        await until(lambda: len(gate.calls) == 2)
        assert gate.calls[1].idempotency_key == other.subject
        gate.open()
        await bench.ends(11)
        await until(lambda: executor.room.free == 2)


class FailsOnce(OnlyCalls):
    """The first call fails, the next ones do not."""

    def __init__(self) -> None:
        self.calls = 0

    async def call(self, call: Call) -> Answer:
        self.calls += 1
        await asyncio.sleep(0.02)
        if self.calls == 1:
            raise ProviderFailure("ServerError")
        return Answer("second", 1, 1, from_cents(1))

    async def close(self) -> None:
        pass


async def test_after_a_failed_call_the_next_one_leads(bench: Bench) -> None:
    provider = FailsOnce()
    async with bench.executor({"stub": provider}):
        await bench.decide(*(bench.allowed(PROMPT, cached=True) for _ in range(6)))
        ends = [end.data for end in await bench.ends(6)]
    assert provider.calls == 2
    assert sum(isinstance(end, TaskFailed) for end in ends) == 1


async def test_a_leader_that_died_keeps_nobody_waiting_for_long(bench: Bench) -> None:
    """Its task ends as uncertain when it is taken over; that frees the flight, and the next one leads."""
    gate = Gate()
    async with bench.executor({"stub": gate}, name="dies") as dies:
        leader = await bench.allow(PROMPT, cached=True)
        await until(lambda: len(gate.calls) == 1)
        await dies.crash()
    gate.open()
    async with bench.executor({"stub": gate}, name="lives"):
        await bench.allow(PROMPT, cached=True)
        async with asyncio.timeout(12):  # the flight's own time is longer
            ends = {end.subject: end.data for end in await bench.ends(2)}
    failed = ends.pop(leader.subject)
    assert isinstance(failed, TaskFailed) and failed.reason == "attempt_uncertain"
    assert isinstance(next(iter(ends.values())), TaskSucceeded) and len(gate.calls) == 2


async def is_cached(bench: Bench, at: int, **fields: Any) -> bool:
    """Ask, as the `at`-th task of this test; whether the answer came from the cache."""
    await bench.allow(PROMPT | fields.pop("prompt", {}), cached=True, **fields)
    end = (await bench.ends(at))[at - 1].data
    assert isinstance(end, TaskSucceeded)
    return end.was_cached


async def test_what_was_cached_before_a_purge_is_served_no_more(bench: Bench) -> None:
    other = uuid4()
    async with bench.executor({"stub": Gate(is_open=True)}) as executor:
        assert not await is_cached(bench, 1) and not await is_cached(bench, 2, user=other)
        place = await bench.order(
            type="cache.purged", scope={"tenant_id": str(bench.tenant), "user_id": str(bench.user)}
        )
        await until(lambda: executor.control.state.position >= place)
        assert not await is_cached(bench, 3) and await is_cached(bench, 4)
        assert await is_cached(bench, 5, user=other), "another user's stays"
        place = await bench.order(type="cache.purged", scope={"tenant_id": str(bench.tenant)})
        await until(lambda: executor.control.state.position >= place)
        assert not await is_cached(bench, 6) and not await is_cached(bench, 7, user=other)


async def test_an_answer_that_is_on_its_way_during_a_purge_is_not_kept(bench: Bench) -> None:
    gate = Gate()
    async with bench.executor({"stub": gate}) as executor:
        await bench.allow(PROMPT, cached=True)
        await until(lambda: bool(gate.calls))
        place = await bench.order(type="cache.purged", scope={"tenant_id": str(bench.tenant)})
        await until(lambda: executor.control.state.position >= place)
        gate.open()
        await bench.ends(1)
        assert not await is_cached(bench, 2)


async def test_the_oldest_answers_leave_a_cache_that_is_full(bench: Bench) -> None:
    partition = bench.partition
    async with bench.executor({"stub": Gate(is_open=True)}, cache_max_bytes_per_tenant=500):
        asked = [{"input": name} for name in ("a", "b", "c")]
        for at, question in enumerate((*asked, asked[2], asked[0])):
            found = await is_cached(bench, at + 1, prompt=question)
            assert found == (at == 3), f"the {at}th: the newest is there, the oldest has gone"
    sizes = await bench.admin.hgetall(partition.cached_sizes(bench.tenant))
    keys = await bench.admin.zrange(partition.cached(bench.tenant), 0, -1)
    assert 0 < int(sizes.pop(b"total")) == sum(map(int, sizes.values())) <= 500
    assert set(keys) == set(sizes) == {key for key in keys if await bench.admin.exists(key)}


class Cut(Gate):
    """Its answers end at the limit."""

    def __init__(self, completion: dict[str, Any]) -> None:
        super().__init__(is_open=True)
        self._completion = completion

    async def call(self, call: Call) -> Answer:
        return replace(await super().call(call), metadata={"completion": self._completion})


@pytest.mark.parametrize("completion", [{"choices": [{"finish_reason": "length"}]}, {"status": "incomplete"}])
async def test_an_answer_that_a_limit_beside_the_question_cut_short_is_not_kept(
    bench: Bench, completion: dict[str, Any]
) -> None:
    """Its caller could not pay for more; who asks the same and can is not given half of the answer."""
    asked = {**PROMPT, "max_tokens": 50}
    async with bench.executor({"stub": Cut(completion)}):
        assert not await is_cached(bench, 1, prompt=asked, max_output_tokens=5)
        assert not await is_cached(bench, 2, prompt=asked, max_output_tokens=50)
        assert await is_cached(bench, 3, prompt=asked, max_output_tokens=50), "cut where the question said so"
