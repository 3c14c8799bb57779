"""Making calls: each is recorded before it is made, checked right before it starts, and listened to when it is late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from services.executor import ends
from services.executor.delivery import Delivery
from services.executor.execution import (
    Expired,
    Go,
    Permission,
    Stop,
    before_call,
    is_for_another,
    opened_since,
    permission,
    stopped,
    wait_before_retry,
    without_answer,
)
from services.executor.journal import Journal, Verdict
from services.executor.metrics import LATE_RESULTS, PROVIDER_SECONDS
from services.executor.providers import Answer, Call, Hear, Provider, ProviderFailure, Responds
from services.executor.spans import record_attempt
from services.executor.streaming import CLIENT_LEFT, Cut, Streaming
from shared.clock import Clock
from shared.control_state import ControlState
from shared.events.decisions import BlockReason
from shared.events.envelope import Payload
from shared.events.outcomes import TaskFailed, Usage
from shared.events.tasks import Operation
from shared.settings import Settings
from shared.streams.control_reader import ControlReader

log = structlog.get_logger(__name__)

_Calling = asyncio.Task[Answer | Stop | Expired | Cut]


@dataclass(frozen=True, slots=True)
class Ended:
    """The last attempt, what it came to, and the delivery as it was called for: of the choice, or of an alternative."""

    number: int
    end: Payload
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Again:
    """What may follow on an attempt: one of the same model after `wait_s` (None: none), one of another model."""

    wait_s: float | None = None
    of_another: bool = False


NOTHING_MORE = Again()


class Attempts:
    """Makes the calls of one executor."""

    def __init__(
        self,
        executor: str,
        journal: Journal,
        control: ControlReader,
        clock: Clock,
        providers: Mapping[str, Provider],
        settings: Settings,
    ) -> None:
        self._executor = executor
        self._journal = journal
        self._control = control
        self._clock = clock
        self._providers = providers
        self._max_attempts = settings.max_attempts
        self._late_s = settings.late_result_seconds
        self._max_late = settings.executor_concurrency
        self._late: set[asyncio.Task[None]] = set()
        self._unwritten: dict[UUID, asyncio.Event] = {}
        self._streams: set[Streaming] = set()
        control.on_change(self._wake_streams)

    def permission(self, delivery: Delivery) -> Permission:
        """Whether the task may go on now: to the cache, or to its call."""
        control = self._control
        return permission(delivery, control.state, stale=control.is_stale, now_ms=self._clock.now_ms())

    def without_answer(self, delivery: Delivery) -> Go | Stop:
        """Whether its call may be recorded, where the cache has no answer."""
        return without_answer(delivery, self._control.state)

    def refusal(self, delivery: Delivery, refused: Stop | Expired) -> Payload:
        """The end of a task whose call may not start."""
        if isinstance(refused, Expired):
            return ends.expired(delivery)
        return ends.blocked(delivery, refused, self._control.state.position)

    async def make(self, delivery: Delivery) -> Ended | Verdict:
        """Record and call; again, or of an alternative, where it is certain that nothing was spent. A verdict: it is
        not ours to attempt."""
        failed: Ended | None = None
        after: TaskFailed | None = None
        stops_at = 0.0
        options = delivery.options
        asked = next((one for one in options if opened_since(one, self._control.state) is None), delivery)
        for number in range(1, self._max_attempts + 1):
            streaming = self._streaming(asked, number) if delivery.allowed.task.stream else None
            if streaming is not None:
                streaming.look()
            verdict = await self._begin(asked, number, after)
            if verdict.said != "begun":
                return verdict
            stops_at = stops_at or time.monotonic() + delivery.allowed.timeout_ms / 1000
            began_ns = time.time_ns()
            end, again = await self._one(asked, number, stops_at, streaming)
            record_attempt(asked, number, began_ns, end)
            in_time = number < self._max_attempts and time.monotonic() < stops_at
            other = self._next(options[options.index(asked) + 1 :]) if again.of_another and in_time else None
            if other is not None:
                if isinstance(end, TaskFailed):
                    after = ends.as_asked(end)
                    failed = Ended(number, after, asked)
                asked = other
                continue
            if isinstance(end, Stop | Expired):
                # A second attempt that was not made leaves the first one's failure as what there is to tell.
                return failed or Ended(number, self.refusal(asked, end), asked)
            if again.wait_s is None:
                return Ended(number, end, asked)
            assert isinstance(end, TaskFailed), "only failures are tried again"
            failed, after = Ended(number, end, asked), None
            await asyncio.sleep(again.wait_s)
            if not isinstance(self._before_call(asked), Go):
                break
        assert failed is not None, "the loop goes round only after a failure"
        return failed

    def _next(self, others: Sequence[Delivery]) -> Delivery | None:
        """The first of them whose call may be made now."""
        return next((one for one in others if isinstance(self._before_call(one), Go)), None)

    async def resolve(self, delivery: Delivery, number: int, spent: Usage | None, latency_ms: int) -> None:
        """Say what became of an attempt whose task has ended without it."""
        LATE_RESULTS.inc()
        resolved = ends.resolved(delivery, number, spent, latency_ms)
        await self._journal.append(delivery, delivery.follow(resolved, self._clock.now_ms()))

    def written(self, delivery: Delivery) -> None:
        """The delivery's end is in the log, or will be by another: what comes late may be told from now on.

        Told before, it would settle what policy does not know to be uncertain yet.
        """
        if (end := self._unwritten.pop(delivery.decision_id, None)) is not None:
            end.set()

    async def close(self) -> None:
        """Stop listening for late results."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    def _before_call(self, delivery: Delivery) -> Permission:
        control = self._control
        return before_call(delivery, control.state, stale=control.is_stale, now_ms=self._clock.now_ms())

    async def _begin(self, delivery: Delivery, number: int, after: TaskFailed | None) -> Verdict:
        left = None if after is None else ends.gone_on_from(after)
        begun = ends.started(delivery, number, self._executor, left)
        return await self._journal.begin(delivery, number, delivery.follow(begun, self._clock.now_ms(), number))

    async def _one(
        self, delivery: Delivery, number: int, stops_at: float, streaming: Streaming | None
    ) -> tuple[Payload | Stop | Expired, Again]:
        """What one call came to, and what may follow on it."""
        started, cut = time.monotonic(), None
        calling: _Calling = asyncio.create_task(self._call(delivery, number, stops_at - started, streaming))
        try:
            if streaming is None:
                # The loop's timers may be a little early: its clock stands still while it works.
                while not calling.done() and (left_s := stops_at - time.monotonic()) > 0:
                    await asyncio.wait({calling}, timeout=left_s)
            else:
                self._streams.add(streaming)
                try:
                    cut = await streaming.cut(calling, stops_at - started)
                finally:
                    self._streams.discard(streaming)
        except asyncio.CancelledError:
            calling.cancel()
            raise
        latency_ms = since(started)
        PROVIDER_SECONDS.labels(delivery.allowed.task.provider).observe(latency_ms / 1000)
        if streaming is not None and cut is not None:
            return ends.cut(delivery, number, cut, streaming, latency_ms), NOTHING_MORE
        if not calling.done():
            self._listen(delivery, number, calling, started)
            return ends.timed_out(delivery, number, latency_ms), NOTHING_MORE
        try:
            reply = calling.result()
        except ProviderFailure as failure:
            wait_s = wait_before_retry(failure, number, self._max_attempts, stops_at - time.monotonic())
            # What was heard cannot be taken back.
            unheard = streaming is None or streaming.chunks == 0
            return ends.failed(delivery, number, failure, latency_ms), Again(
                wait_s, unheard and is_for_another(failure)
            )
        if isinstance(reply, Answer):
            return ends.succeeded(delivery, number, reply, latency_ms, streaming), NOTHING_MORE
        if isinstance(reply, Cut):
            assert streaming is not None, "only a stream is cut"
            return ends.cut(delivery, number, reply, streaming, latency_ms), NOTHING_MORE
        return reply, Again(of_another=isinstance(reply, Stop) and reply.reason == BlockReason.PROVIDER_BREAKER_OPEN)

    def _streaming(self, delivery: Delivery, number: int) -> Streaming:
        def stops() -> Stop | None:
            control = self._control
            return stopped(delivery, control.state, stale=control.is_stale, now_ms=self._clock.now_ms())

        task, bound = delivery.allowed.task, delivery.allowed.max_output_tokens
        choices = task.prompt.get("n")
        answers = choices if isinstance(choices, int) else 1
        channel = delivery.partition.chunks(task.task_id)
        most = None if bound is None else bound * answers
        return Streaming(self._journal.pipeline, channel, delivery.attempt_id(number), stops, most)

    def _wake_streams(self, _: ControlState) -> None:
        for streaming in self._streams:
            streaming.wake()

    async def _call(
        self, delivery: Delivery, number: int, timeout_s: float, streaming: Streaming | None
    ) -> Answer | Stop | Expired | Cut:
        """The provider's answer, or why it was not asked. Whatever it raises is a failure."""
        task = delivery.allowed.task
        provider = self._providers.get(task.provider)
        if provider is None:
            raise ProviderFailure("UnknownProvider", task.provider, counts_for_breaker=False, asked=False)
        call = Call(
            provider=task.provider,
            model=task.model,
            prompt=task.prompt,
            max_output_tokens=delivery.allowed.max_output_tokens,
            timeout_s=timeout_s + self._late_s,
            idempotency_key=str(delivery.idempotency_key),
            attempt_id=str(delivery.attempt_id(number)),
            prices=delivery.allowed.prices,
            created_s=self._clock.now_ms() // 1000,
        )
        if streaming is not None and not await streaming.is_awaited():
            return Cut(CLIENT_LEFT, "nobody listened", asked=False)
        # The last moment: from here to the provider nothing else of this process runs.
        allowed = self._before_call(delivery)
        if not isinstance(allowed, Go):
            return allowed
        if streaming is not None:
            streaming.asks()
        try:
            return await _ask(provider, call, task.operation, None if streaming is None else streaming.hear)
        except (ProviderFailure, asyncio.CancelledError):
            raise
        except Exception as error:
            log.error("provider failed in an unforeseen way", provider=task.provider, error=type(error).__name__)
            raise ProviderFailure(type(error).__name__, str(error), spend="uncertain") from error

    def _listen(self, delivery: Delivery, number: int, calling: _Calling, started: float) -> None:
        """Keep listening to a call that timed out: what it cost is worth knowing."""
        if self._late_s <= 0 or len(self._late) >= self._max_late:
            calling.cancel()
            return
        written = self._unwritten[delivery.decision_id] = asyncio.Event()
        task = asyncio.create_task(self._late_result(delivery, number, calling, started, written))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _late_result(
        self, delivery: Delivery, number: int, calling: _Calling, started: float, written: asyncio.Event
    ) -> None:
        try:
            await asyncio.wait({calling}, timeout=self._late_s)
        finally:
            if not calling.done():
                calling.cancel()  # its cost stays uncertain
        if calling.done() and not calling.cancelled():
            latency_ms = since(started)
            await written.wait()
            await self._tell(delivery, number, calling, latency_ms)

    async def _tell(self, delivery: Delivery, number: int, calling: _Calling, latency_ms: int) -> None:
        error = calling.exception()
        if isinstance(error, ProviderFailure):
            if error.spend == "none":
                await self.resolve(delivery, number, None, latency_ms)
            elif error.answer is not None:
                await self.resolve(delivery, number, ends.usage(delivery, error.answer, latency_ms), latency_ms)
        elif error is None and isinstance(answer := calling.result(), Answer):
            await self.resolve(delivery, number, ends.usage(delivery, answer, latency_ms), latency_ms)


def since(started: float) -> int:
    """Milliseconds since a reading of the monotonic clock, to the nearest."""
    return round((time.monotonic() - started) * 1000)


async def _ask(provider: Provider, call: Call, operation: Operation, hear: Hear | None) -> Answer:
    if operation == "embeddings":
        return await provider.embed(call)
    if operation == "responses":
        if not isinstance(provider, Responds):
            problem = f"{call.provider} has no Responses API; ask for a chat completion"
            raise ProviderFailure("NotSupported", problem, counts_for_breaker=False, asked=False)
        return await provider.respond(call, hear)
    return await (provider.call(call) if hear is None else provider.stream(call, hear))
