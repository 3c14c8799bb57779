"""The events that an executor writes about a delivery. Pure."""

from __future__ import annotations

from services.executor import storable
from services.executor.delivery import Delivery
from services.executor.execution import Stop
from services.executor.providers.protocol import Answer, ProviderFailure
from services.executor.streaming import HOLD_REACHED, Cut, Streaming
from shared import pricing
from shared.events.decisions import TaskBlocked
from shared.events.outcomes import (
    AttemptResolved,
    AttemptStarted,
    DecisionExpired,
    GoneOnFrom,
    Spend,
    TaskFailed,
    TaskSucceeded,
    Usage,
)
from shared.events.tasks import Task
from shared.models import ANSWERS_AT_ONCE, ANTHROPIC, GEMINI, REASONING_MODELS, STUB, THINKS_IF_ASKED
from shared.money import MAX_NANOCENTS

MAX_DETAIL = 2000


def started(delivery: Delivery, number: int, executor: str, after: GoneOnFrom | None = None) -> AttemptStarted:
    """Attempt `number` is about to make its call; `after` the failed one of another model."""
    return AttemptStarted(
        task=delivery.ref,
        decision_id=delivery.decision_id,
        attempt_id=delivery.attempt_id(number),
        attempt_no=number,
        executor=executor,
        after=after,
    )


def succeeded(
    delivery: Delivery, number: int, answer: Answer, latency_ms: int, streaming: Streaming | None = None
) -> TaskSucceeded:
    """The provider answered. Of a stream the number of its pieces is kept: who listened knows whether all came."""
    task = delivery.allowed.task
    streamed = {} if streaming is None else {"chunks": streaming.chunks}
    return TaskSucceeded(
        task=delivery.ref,
        decision_id=delivery.decision_id,
        attempt_id=delivery.attempt_id(number),
        was_cached=False,
        provider_attempted=True,
        output_text=storable.text(answer.output_text),
        reasoning_trace=storable.trace(answer.reasoning_trace),
        response_metadata={**storable.tree(answer.metadata), **streamed, "boundary_id": storable.BOUNDARY_ID},
        usage=usage(delivery, answer, latency_ms),
        cache_key=task.cache_key,
        cache_watermark=task.cache_watermark,
    )


def failed(delivery: Delivery, number: int, failure: ProviderFailure, latency_ms: int) -> TaskFailed:
    """The provider did not answer, or not with an answer."""
    spent = Usage(latency_ms=latency_ms)
    if failure.answer is not None:
        spent = usage(delivery, failure.answer, latency_ms)
    return TaskFailed(
        task=delivery.ref,
        decision_id=delivery.decision_id,
        attempt_id=delivery.attempt_id(number),
        reason=f"provider_error:{storable.text(failure.kind)}",
        detail=storable.text(failure.detail)[:MAX_DETAIL],
        provider_attempted=failure.asked,
        counts_for_breaker=failure.counts_for_breaker,
        spend=failure.spend,
        usage=spent,
        cache_watermark=delivery.allowed.task.cache_watermark,
    )


def gone_on_from(failed: TaskFailed) -> GoneOnFrom:
    """What the next attempt's event says of a failed call that would else have been the task's end."""
    return GoneOnFrom(
        provider=failed.task.provider,
        model=failed.task.model,
        reason=failed.reason,
        provider_attempted=failed.provider_attempted,
        counts_for_breaker=failed.counts_for_breaker,
        latency_ms=failed.usage.latency_ms,
    )


def as_asked(failed: TaskFailed) -> TaskFailed:
    """The same end, which says what was asked for: events of another model stand between its call and it."""
    task = failed.task
    asked = task.requested_model or f"{task.provider}:{task.model}"
    return failed.model_copy(update={"task": task.model_copy(update={"requested_model": asked})})


def cut(delivery: Delivery, number: int, why: Cut, streaming: Streaming, latency_ms: int) -> TaskFailed:
    """The stream was cut. What came is counted and paid for as the most that it can have been.

    Nobody can count what a model thinks in silence. Anthropic keeps to `max_tokens`, thoughts included: that many
    are paid for. Elsewhere, as without a price, the spend is uncertain.
    """
    task, reserved = delivery.allowed.task, delivery.allowed.reservation.amount
    tokens, bound = streaming.count.at_most, delivery.allowed.max_output_tokens
    unseen = thinks(task)
    if unseen and task.provider == ANTHROPIC and (streaming.count.is_stated or bound is not None):
        tokens, unseen = tokens if streaming.count.is_stated else max(tokens, bound or 0), False
    cost = reserved if task.provider == STUB else pricing.counted(task, delivery.allowed.prices, tokens)
    spend: Spend = "none" if not why.asked else "uncertain" if cost is None or unseen else "certain"
    spent = Usage(latency_ms=latency_ms)
    if spend == "certain" and cost is not None:
        # Only a provider that passed its bound can have cost more than the bound.
        most = cost if why.reason == HOLD_REACHED else min(cost, reserved)
        spent = Usage(output_tokens=storable.tokens(tokens), cost=min(most, MAX_NANOCENTS), latency_ms=latency_ms)
    return TaskFailed(
        task=delivery.ref,
        decision_id=delivery.decision_id,
        attempt_id=delivery.attempt_id(number),
        reason=f"stream_cut:{why.reason}",
        detail=f"{why.detail}; {streaming.chunks} pieces, at most {tokens} tokens, had come",
        provider_attempted=why.asked,
        counts_for_breaker=False,
        spend=spend,
        usage=spent,
        cache_watermark=task.cache_watermark,
    )


def thinks(task: Task) -> bool:
    """Whether the model may have written tokens that nobody saw."""
    asked = any(task.prompt.get(name) for name in ("reasoning_effort", "reasoning", "thinking", "output_config"))
    if task.provider == ANTHROPIC:
        thinking = task.prompt.get("thinking")
        disabled = isinstance(thinking, dict) and thinking.get("type") == "disabled"
        return not disabled and (asked or not task.model.startswith(THINKS_IF_ASKED))
    if task.provider == GEMINI:
        return asked or bool(task.prompt.get("thinking_config")) or not task.model.startswith(ANSWERS_AT_ONCE)
    return asked or task.model.rsplit("/", 1)[-1].startswith(REASONING_MODELS)


def timed_out(delivery: Delivery, number: int, latency_ms: int) -> TaskFailed:
    """The provider took too long; it may answer yet, and it may have charged."""
    return TaskFailed(
        task=delivery.ref,
        decision_id=delivery.decision_id,
        attempt_id=delivery.attempt_id(number),
        reason="provider_timeout",
        detail=f"no answer within {delivery.allowed.timeout_ms} ms",
        provider_attempted=True,
        counts_for_breaker=True,
        spend="uncertain",
        usage=Usage(latency_ms=latency_ms),
        cache_watermark=delivery.allowed.task.cache_watermark,
    )


def uncertain(delivery: Delivery, owner: str) -> TaskFailed:
    """`owner` began the call and did not say how it ended."""
    return TaskFailed(
        task=delivery.ref,
        decision_id=delivery.decision_id,
        reason="attempt_uncertain",
        detail=f"{owner} began the call and did not say how it ended",
        provider_attempted=True,
        counts_for_breaker=False,
        spend="uncertain",
        cache_watermark=delivery.allowed.task.cache_watermark,
    )


def broken(delivery: Delivery, error: Exception, *, attempted: bool) -> TaskFailed:
    """The executor itself failed on this task; it must end all the same."""
    return TaskFailed(
        task=delivery.ref,
        decision_id=delivery.decision_id,
        reason=f"executor_error:{type(error).__name__}",
        provider_attempted=attempted,
        counts_for_breaker=False,
        spend="uncertain" if attempted else "none",
        cache_watermark=delivery.allowed.task.cache_watermark,
    )


def blocked(delivery: Delivery, stop: Stop, control_position: str) -> TaskBlocked:
    """A stop came between the decision and the call."""
    return TaskBlocked(
        task=delivery.ref,
        reason=stop.reason,
        rule="executor",
        explanation=stop.explanation,
        breaker_state=delivery.allowed.breaker_state,
        max_cost=delivery.allowed.task.max_cost,
        cache_watermark=delivery.allowed.task.cache_watermark,
        decision_id=delivery.decision_id,
        control_position=control_position,
    )


def expired(delivery: Delivery, *, lost: bool = False) -> DecisionExpired:
    """The decision is given back, to be made again. `lost`: an attempt was begun, and nobody knows how it ended."""
    spend = "uncertain" if lost else "none"
    return DecisionExpired(task=delivery.allowed.task, decision_id=delivery.decision_id, spend=spend)


def resolved(delivery: Delivery, number: int, spent: Usage | None, latency_ms: int) -> AttemptResolved:
    """What became of an attempt after its task had ended; `spent` None: certainly nothing."""
    return AttemptResolved(
        task=delivery.ref,
        decision_id=delivery.decision_id,
        attempt_id=delivery.attempt_id(number),
        spend="none" if spent is None else "certain",
        usage=spent or Usage(latency_ms=latency_ms),
        by="late_result",
    )


def usage(delivery: Delivery, answer: Answer, latency_ms: int) -> Usage:
    """What the call consumed; a cost that nobody can tell counts as the whole reservation."""
    cost = delivery.allowed.reservation.amount if answer.cost is None else answer.cost
    return Usage(
        input_tokens=storable.tokens(answer.input_tokens),
        output_tokens=storable.tokens(answer.output_tokens),
        cost=min(max(cost, 0), MAX_NANOCENTS),
        latency_ms=latency_ms,
        tokens=answer.counts,
        prices=answer.prices,
    )
