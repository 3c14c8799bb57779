"""What a call comes to, and how it is recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.executor.journal import Journal, Verdict
from services.executor.providers import Answer, Call
from shared.events.outcomes import AttemptResolved, AttemptStarted, TaskFailed, TaskSucceeded
from shared.events.tasks import TaskType
from shared.money import from_cents
from tests.integration.executor.conftest import Bench, Gate, OnlyCalls, until


@pytest.mark.parametrize("task_type", list(TaskType))
async def test_a_success_is_recorded_in_full(bench: Bench, task_type: TaskType) -> None:
    event = bench.allowed({"simulated_output_text": "hello", "simulated_cost_cents": 0.5}, task_type=task_type)
    await bench.decide(event)
    async with bench.executor() as executor:
        end = await bench.end(TaskSucceeded)
        await until(lambda: not executor.worker._held)
    assert (end.output_text, end.usage.cost) == ("hello", from_cents("0.5"))
    assert (end.provider_attempted, end.was_cached, end.reasoning_trace) == (True, False, {})
    assert end.response_metadata["boundary_id"] == "b07_p3_aisuite_chokepoint"
    assert end.usage.input_tokens > 0 and end.usage.output_tokens > 0
    started, ended = await bench.outcomes()
    assert isinstance(started.data, AttemptStarted)
    assert (started.data.attempt_id, started.data.attempt_no) == (end.attempt_id, 1)
    assert ended.causationid == event.id and ended.correlationid == "c" and ended.userid == bench.user
    result = await bench.result(event)
    assert (result["status"], result["output_text"], result["api_call_id"]) == ("success", "hello", event.subject)
    assert result["usage"]["cost_cents"] == 0.5 and result["provider_attempted"] is True
    assert await bench.admin.pttl(bench.partition.task(event.data.task.task_id)) > 0  # type: ignore[attr-defined]
    assert await bench.pending() == 0


async def test_the_attempt_is_recorded_before_the_call(bench: Bench) -> None:
    event = await bench.allow()
    gate = Gate()
    async with bench.executor({"stub": gate}) as executor:
        await until(lambda: bool(gate.calls))
        (started,) = await bench.outcomes()
        assert started.type == "attempt.started"
        record = await bench.record(event)
        assert (record["state"], record["owner"], record["attempts"]) == ("attempting", executor.name, "1")
        gate.open()
        await bench.end(TaskSucceeded)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (True, "provider_error:RuntimeError"),
        ("ValueError", "provider_error:ValueError"),
        ("it broke; badly", "provider_error:RuntimeError"),
        ("1Error", "provider_error:RuntimeError"),
        ("größe", "provider_error:RuntimeError"),
    ],
)
async def test_the_stub_fails_as_it_is_asked_to(bench: Bench, asked: Any, reason: str) -> None:
    event = await bench.allow({"raise_error": asked, "simulated_cost_cents": 7})
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, end.spend, end.usage.cost) == (reason, "none", 0)
    assert end.counts_for_breaker and end.provider_attempted
    assert (await bench.result(event))["failure_reason"] == reason


@pytest.mark.parametrize("prompt", [{"simulated_delay_ms": "soon"}, {"simulated_cost_cents": -1}, {"input": 5}])
async def test_the_callers_mistake_is_not_the_providers_failure(
    bench: Bench, prompt: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-never-used")
    await bench.allow(prompt, provider="openai" if "input" in prompt else "stub")
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert end.reason == "provider_error:InvalidPrompt"
    assert (end.counts_for_breaker, end.spend, end.provider_attempted) == (False, "none", False)


async def test_an_unknown_provider_ends_too(bench: Bench) -> None:
    await bench.allow(provider="nowhere")
    async with bench.executor():
        end = await bench.end(TaskFailed)
    assert (end.reason, end.counts_for_breaker) == ("provider_error:UnknownProvider", False)


async def test_only_the_stub_honours_simulated_fields(bench: Bench) -> None:
    gate = Gate(is_open=True)
    await bench.allow({"simulated_output_text": "free", "raise_error": True, "input": "x"}, provider="openai")
    async with bench.executor({"openai": gate}):
        end = await bench.end(TaskSucceeded)
    assert (end.output_text, end.usage.cost) == ("through the gate", from_cents(2))


async def test_a_late_result_is_not_told_before_the_end_that_it_is_late_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by chaos: the link was slow just then, and policy settled what nobody had called uncertain yet."""
    gate, original = Gate(), Journal.finish

    async def slow(self: Journal, *arguments: Any, **named: Any) -> Verdict:
        gate.open()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await bench.event(AttemptResolved)
        return await original(self, *arguments, **named)

    monkeypatch.setattr(Journal, "finish", slow)
    async with bench.executor({"stub": gate}):
        await bench.allow(timeout_ms=60)
        await bench.event(AttemptResolved)
        kinds = [event.type for event in await bench.outcomes()]
    assert kinds == ["attempt.started", "task.failed", "attempt.resolved"]


async def test_a_timeout_is_perhaps_spent_and_a_late_result_is_told(bench: Bench) -> None:
    gate = Gate()
    event = await bench.allow(timeout_ms=60)
    async with bench.executor({"stub": gate}):
        end = await bench.end(TaskFailed)
        assert (end.reason, end.spend, end.counts_for_breaker) == ("provider_timeout", "uncertain", True)
        assert end.usage.latency_ms >= 60
        assert (await bench.result(event))["failure_reason"] == "provider_timeout"
        gate.open()
        late = await bench.event(AttemptResolved)
    assert (late.spend, late.usage.cost, late.by) == ("certain", from_cents(2), "late_result")
    assert late.attempt_id == end.attempt_id and late.usage.latency_ms >= end.usage.latency_ms
    assert len(await bench.outcomes()) == 3


async def test_the_stubs_own_delay_can_time_out(bench: Bench) -> None:
    await bench.allow({"simulated_delay_ms": 5000}, timeout_ms=50)
    async with bench.executor(late_result_seconds=0):
        end = await bench.end(TaskFailed)
    assert end.reason == "provider_timeout"


async def test_no_longer_than_set_is_listened_to_a_late_call(bench: Bench) -> None:
    gate = Gate()
    await bench.allow(timeout_ms=30)
    async with bench.executor({"stub": gate}, late_result_seconds=0.1) as executor:
        await bench.end(TaskFailed)
        await until(lambda: not executor.attempts._late)
        gate.open()
        assert len(await bench.outcomes()) == 2


async def test_how_many_late_calls_are_listened_to_is_bounded(bench: Bench) -> None:
    gate = Gate()
    await bench.decide(*(bench.allowed(timeout_ms=30) for _ in range(9)))
    async with bench.executor({"stub": gate}, executor_concurrency=3) as executor:
        await bench.ends(9)
        assert len(executor.attempts._late) == 3


class Raises(OnlyCalls):
    """A provider with a fault of its own."""

    async def call(self, call: Call) -> Answer:
        raise KeyError("nobody foresaw this")

    async def close(self) -> None:
        pass


async def test_an_unforeseen_failure_of_a_provider_may_have_cost_something(bench: Bench) -> None:
    await bench.allow()
    async with bench.executor({"stub": Raises()}):
        end = await bench.end(TaskFailed)
    assert (end.reason, end.spend, end.counts_for_breaker) == ("provider_error:KeyError", "uncertain", True)


class Says(OnlyCalls):
    """A provider that answers with anything at all."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def call(self, call: Call) -> Answer:
        return self.answer

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "text", "trace", "tokens", "cost"),
    [
        (Answer("a\x00b", 1, 1, 5), "a\ufffdb", {}, (1, 1), 5),
        (Answer("a\ud800b", 1, 1, 5), "a\ufffdb", {}, (1, 1), 5),
        (Answer("x", 1, 1, 5, reasoning_trace="because\x00"), "x", {"text": "because\ufffd"}, (1, 1), 5),
        (Answer("x", 1, 1, 5, reasoning_trace=["a", "\udfff"]), "x", {"value": ["a", "\ufffd"]}, (1, 1), 5),
        (Answer("x", 1, 1, 5, reasoning_trace={"\x00": float("nan")}), "x", {"\ufffd": "nan"}, (1, 1), 5),
        (Answer("x", -3, 10**30, 5), "x", {}, (0, 2**31 - 1), 5),
        (Answer("x", None, "many", 5), "x", {}, (0, 0), 5),  # type: ignore[arg-type]
        (Answer("x", 1, 1, None), "x", {}, (1, 1), from_cents(10)),  # nobody knows: the whole reservation
        (Answer("x", 1, 1, 10**40), "x", {}, (1, 1), 2**53 - 1),
        (Answer("x", 1, 1, -5), "x", {}, (1, 1), 0),
        (Answer(None, 1, 1, 5), "", {}, (1, 1), 5),  # type: ignore[arg-type]
    ],
)
async def test_whatever_a_provider_sends_ends_the_task_once_with_its_cost(
    bench: Bench, answer: Answer, text: str, trace: dict[str, Any], tokens: tuple[int, int], cost: int
) -> None:
    event = await bench.allow()
    async with bench.executor({"stub": Says(answer)}):
        end = await bench.end(TaskSucceeded)
    assert (end.output_text, end.reasoning_trace) == (text, trace)
    assert (end.usage.input_tokens, end.usage.output_tokens, end.usage.cost) == (*tokens, cost)
    assert (await bench.result(event))["output_text"] == text


async def test_a_true_cost_above_the_reservation_is_recorded_in_full(bench: Bench) -> None:
    await bench.allow({"simulated_cost_cents": 25}, amount=from_cents(1))
    async with bench.executor():
        assert (await bench.end(TaskSucceeded)).usage.cost == from_cents(25)


async def test_a_decision_that_is_delivered_twice_makes_one_call(bench: Bench) -> None:
    gate = Gate(is_open=True)
    event = bench.allowed()
    await bench.decide(event)
    await bench.policy.xadd(bench.partition.decisions, event.to_entry())
    # Who finds the other at it leaves its delivery, and takes it up again after this silence.
    quiet: dict[str, Any] = {"executor_claim_idle_ms": 3000}
    async with bench.executor({"stub": gate}, **quiet), bench.executor({"stub": gate}, **quiet):
        await bench.end(TaskSucceeded)
        await until(bench.nothing_is_left)
    assert len(gate.calls) == 1
    assert len(await bench.outcomes()) == 2


async def test_a_superseded_decision_is_not_performed(bench: Bench) -> None:
    gate = Gate(is_open=True)
    old = bench.allowed()
    await bench.decide(old)
    await bench.policy.hset(bench.partition.task(old.data.task.task_id), "decision", "another")  # type: ignore[attr-defined]
    async with bench.executor({"stub": gate}):
        await until(bench.nothing_is_left)
    assert gate.calls == [] and await bench.outcomes() == []
