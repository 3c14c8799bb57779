"""One delivered decision, from its arrival to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import structlog

from services.executor import storable
from services.executor.cache import Cache, answer_of
from services.executor.delivery import Delivery
from services.executor.execution import Stop, expired, stop_for
from services.executor.journal import Journal, Verdict
from services.executor.metrics import ENDS, LATE_RESULTS, PROVIDER_SECONDS
from services.executor.providers import Answer, Call, Provider, ProviderFailure
from shared.clock import Clock
from shared.events.decisions import BlockReason, TaskBlocked
from shared.events.envelope import Payload
from shared.events.outcomes import AttemptResolved, AttemptStarted, DecisionExpired, TaskFailed, TaskSucceeded, Usage
from shared.settings import Settings
from shared.streams.control_reader import ControlReader

MAX_LATE = 1000
FIRST_RETRY_S = 0.05

log = structlog.get_logger(__name__)


class Performer:
    """Performs deliveries: checks, cache, attempt, call, end."""

    def __init__(
        self,
        name: str,
        journal: Journal,
        cache: Cache,
        control: ControlReader,
        clock: Clock,
        providers: Mapping[str, Provider],
        settings: Settings,
    ) -> None:
        self._name = name
        self._journal = journal
        self._cache = cache
        self._control = control
        self._clock = clock
        self._providers = providers
        self._max_attempts = settings.max_attempts
        self._late_s = settings.late_result_seconds
        self._late: set[asyncio.Task[None]] = set()

    async def perform(self, delivery: Delivery) -> None:
        """Bring the delivery to its end. Raises RedisError when the log is lost; it is then delivered again."""
        if expired(delivery, self._clock.now_ms()):
            again = DecisionExpired(task=delivery.allowed.task, decision_id=delivery.decision_id)
            await self._finish(delivery, "", again)
        elif stop := self._stop(delivery):
            await self._finish(delivery, "", self._blocked(delivery, stop))
        elif delivery.allowed.task.cache_key is None:
            await self._attempt(delivery, leads_flight=False)
        else:
            await self._from_cache(delivery)

    async def close(self) -> None:
        """Stop listening for late results."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    def _stop(self, delivery: Delivery) -> Stop | None:
        control = self._control
        return stop_for(delivery, control.state, stale=control.is_stale, now_ms=self._clock.now_ms())

    async def _from_cache(self, delivery: Delivery) -> None:
        """Answer from the cache; else make the call, or wait for the identical one that is being made."""
        while True:
            if answer := await self._cache.lookup(delivery):
                stop = self._stop(delivery)
                await self._finish(delivery, "", self._blocked(delivery, stop) if stop else answer)
                return
            if delivery.allowed.cache_only:
                seen = {"problem": "the breaker is open, and the cache has no answer"}
                await self._finish(delivery, "", self._blocked(delivery, Stop(BlockReason.BREAKER_OPEN, seen)))
                return
            if await self._cache.take_off(delivery):
                try:
                    await self._attempt(delivery, leads_flight=True)
                finally:
                    self._cache.landed(delivery)
                return
            await self._cache.wait(delivery)
            if expired(delivery, self._clock.now_ms()) or self._stop(delivery):
                await self._without_flight(delivery)
                return

    async def _without_flight(self, delivery: Delivery) -> None:
        """What waited too long, or was stopped while it waited."""
        stop = self._stop(delivery)
        again = DecisionExpired(task=delivery.allowed.task, decision_id=delivery.decision_id)
        await self._finish(delivery, "", self._blocked(delivery, stop) if stop else again)

    async def _attempt(self, delivery: Delivery, *, leads_flight: bool) -> None:
        """Record, check once more, call, end; again where it is certain that nothing was spent."""
        started = time.monotonic()
        for number in range(1, self._max_attempts + 1):
            begun = AttemptStarted(
                task=delivery.ref,
                decision_id=delivery.decision_id,
                attempt_id=delivery.attempt_id(number),
                attempt_no=number,
                executor=self._name,
            )
            event = delivery.follow(begun, self._clock.now_ms(), number)
            verdict = await self._journal.begin(delivery, self._name, number, event)
            if verdict.said == "attempting":
                await self._uncertain(delivery, verdict.owner, leads_flight=leads_flight)
            if verdict.said != "begun":
                return
            if stop := self._stop(delivery):
                await self._finish(delivery, self._name, self._blocked(delivery, stop), leads_flight=leads_flight)
                return
            left_s = delivery.allowed.timeout_ms / 1000 - (time.monotonic() - started)
            end, wait_s = await self._call(delivery, number, left_s, started)
            left_s = delivery.allowed.timeout_ms / 1000 - (time.monotonic() - started)
            if wait_s is None or number == self._max_attempts or wait_s >= left_s:
                await self._finish(delivery, self._name, end, leads_flight=leads_flight)
                return
            await asyncio.sleep(wait_s)

    async def _call(
        self, delivery: Delivery, number: int, timeout_s: float, started: float
    ) -> tuple[TaskSucceeded | TaskFailed, float | None]:
        """The end that this call makes, and after how long another try makes sense (None: not)."""
        calling = asyncio.create_task(self._ask(delivery, timeout_s))
        try:
            await asyncio.wait({calling}, timeout=timeout_s)
        except asyncio.CancelledError:
            calling.cancel()
            raise
        latency_ms = int((time.monotonic() - started) * 1000)
        PROVIDER_SECONDS.labels(delivery.allowed.task.provider).observe(latency_ms / 1000)
        if not calling.done():
            self._listen(delivery, number, calling, started)
            return self._failed(delivery, number, ProviderFailure("", spend="uncertain"), latency_ms), None
        try:
            return self._succeeded(delivery, number, calling.result(), latency_ms), None
        except ProviderFailure as failure:
            wait_s = failure.retry_after_s if failure.retry_after_s is not None else FIRST_RETRY_S * 2**number
            return self._failed(delivery, number, failure, latency_ms), wait_s if failure.retry else None

    async def _ask(self, delivery: Delivery, timeout_s: float) -> Answer:
        """The provider's answer. Whatever else it raises is a failure too; nobody knows whether it cost anything."""
        task = delivery.allowed.task
        provider = self._providers.get(task.provider)
        if provider is None:
            raise ProviderFailure("UnknownProvider", task.provider, counts_for_breaker=False)
        call = Call(
            provider=task.provider,
            model=task.model,
            prompt=task.prompt,
            max_output_tokens=delivery.allowed.max_output_tokens,
            timeout_s=timeout_s + self._late_s,
            idempotency_key=str(task.task_id),
        )
        try:
            return await provider.call(call)
        except (ProviderFailure, asyncio.CancelledError):
            raise
        except Exception as error:
            log.error("provider failed in an unforeseen way", provider=task.provider, error=type(error).__name__)
            raise ProviderFailure(type(error).__name__, str(error), spend="uncertain") from error

    def _listen(self, delivery: Delivery, number: int, calling: asyncio.Task[Answer], started: float) -> None:
        """Keep listening to a call that timed out: what it cost is worth knowing."""
        if self._late_s <= 0 or len(self._late) >= MAX_LATE:
            calling.cancel()
            return
        task = asyncio.create_task(self._late_result(delivery, number, calling, started))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _late_result(
        self, delivery: Delivery, number: int, calling: asyncio.Task[Answer], started: float
    ) -> None:
        await asyncio.wait({calling}, timeout=self._late_s)
        if not calling.done():
            calling.cancel()
            return
        error = calling.exception()
        if isinstance(error, ProviderFailure) and error.spend == "none":
            await self._resolve(delivery, number, Usage(latency_ms=_since(started)), spent=False)
        elif error is None:
            await self._resolve(delivery, number, self._usage(delivery, calling.result(), _since(started)), spent=True)

    async def _resolve(self, delivery: Delivery, number: int, usage: Usage, *, spent: bool) -> None:
        resolved = AttemptResolved(
            task=delivery.ref,
            decision_id=delivery.decision_id,
            attempt_id=delivery.attempt_id(number),
            spend="certain" if spent else "none",
            usage=usage,
            by="late_result",
        )
        LATE_RESULTS.inc()
        await self._journal.append(delivery, delivery.follow(resolved, self._clock.now_ms()))

    async def _uncertain(self, delivery: Delivery, owner: str, *, leads_flight: bool) -> None:
        """Another executor began the call and is gone: nobody knows whether money went."""
        if owner == self._name or not delivery.taken_over:
            return  # it is being done right now: here, or by the executor that has taken it over from this one
        end = TaskFailed(
            task=delivery.ref,
            decision_id=delivery.decision_id,
            reason="attempt_uncertain",
            detail=f"{owner} began the call and did not say how it ended",
            provider_attempted=True,
            counts_for_breaker=False,
            spend="uncertain",
            cache_watermark=delivery.allowed.task.cache_watermark,
        )
        await self._finish(delivery, owner, end, leads_flight=leads_flight)

    async def _finish(self, delivery: Delivery, owner: str, end: Payload, *, leads_flight: bool = False) -> None:
        """End the delivery; where another executor has ended it already, say at least what this one's call cost."""
        cache = None
        if isinstance(end, TaskSucceeded) and not end.was_cached and end.cache_key is not None:
            cache = answer_of(end)
        event = delivery.follow(end, self._clock.now_ms())
        verdict = await self._journal.finish(delivery, owner, event, leads_flight=leads_flight, cache=cache)
        if verdict.said == "done":
            ENDS.labels(event.type).inc()
        elif verdict.said == "attempting" and owner == "":
            await self._uncertain(delivery, verdict.owner, leads_flight=leads_flight)
        elif owner == self._name:
            await self._too_late(delivery, end, verdict)

    async def _too_late(self, delivery: Delivery, end: Payload, verdict: Verdict) -> None:
        log.warning("too late: the task was ended by another executor", task=delivery.event.subject, said=verdict.said)
        if isinstance(end, TaskSucceeded) or (isinstance(end, TaskFailed) and end.spend != "uncertain"):
            await self._resolve(delivery, 1, end.usage, spent=isinstance(end, TaskSucceeded) or end.spend == "certain")
        elif isinstance(end, TaskBlocked):
            await self._resolve(delivery, 1, Usage(), spent=False)

    def _succeeded(self, delivery: Delivery, number: int, answer: Answer, latency_ms: int) -> TaskSucceeded:
        task = delivery.allowed.task
        metadata = storable.tree(answer.metadata)
        return TaskSucceeded(
            task=delivery.ref,
            decision_id=delivery.decision_id,
            attempt_id=delivery.attempt_id(number),
            was_cached=False,
            provider_attempted=True,
            output_text=storable.text(answer.output_text),
            reasoning_trace=storable.trace(answer.reasoning_trace),
            response_metadata={**metadata, "boundary_id": storable.BOUNDARY_ID},
            usage=self._usage(delivery, answer, latency_ms),
            cache_key=task.cache_key,
            cache_watermark=task.cache_watermark,
        )

    def _usage(self, delivery: Delivery, answer: Answer, latency_ms: int) -> Usage:
        """What the call consumed; a cost that nobody can tell counts as the whole reservation."""
        cost = delivery.allowed.reservation.amount if answer.cost is None else answer.cost
        return Usage(
            input_tokens=storable.tokens(answer.input_tokens),
            output_tokens=storable.tokens(answer.output_tokens),
            cost=cost,
            latency_ms=latency_ms,
        )

    def _failed(self, delivery: Delivery, number: int, failure: ProviderFailure, latency_ms: int) -> TaskFailed:
        return TaskFailed(
            task=delivery.ref,
            decision_id=delivery.decision_id,
            attempt_id=delivery.attempt_id(number),
            reason=f"provider_error:{storable.text(failure.kind)}" if failure.kind else "provider_timeout",
            detail=storable.text(failure.detail)[:2000],
            provider_attempted=True,
            counts_for_breaker=failure.counts_for_breaker,
            spend=failure.spend,
            usage=Usage(latency_ms=latency_ms),
            cache_watermark=delivery.allowed.task.cache_watermark,
        )

    def _blocked(self, delivery: Delivery, stop: Stop) -> TaskBlocked:
        return TaskBlocked(
            task=delivery.ref,
            reason=stop.reason,
            rule="executor",
            explanation=stop.explanation,
            breaker_state=delivery.allowed.breaker_state,
            max_cost=delivery.allowed.task.max_cost,
            cache_watermark=delivery.allowed.task.cache_watermark,
            decision_id=delivery.decision_id,
            control_position=self._control.state.position,
        )


def _since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)
