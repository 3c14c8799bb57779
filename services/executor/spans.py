"""What the executor adds to a task's trace: a span for each attempt, by OpenTelemetry's conventions for generative AI.

Names and values: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ (the text of the prompt and of the
answer, which they leave to choice, is not there).
"""

from __future__ import annotations

from opentelemetry.trace import SpanKind

from services.executor.delivery import Delivery
from services.executor.execution import Expired, Stop
from shared import tracing
from shared.events.envelope import Payload
from shared.events.outcomes import TaskFailed, TaskSucceeded

# `gen_ai.operation.name` where ours has another name.
_OPERATIONS = {"responses": "chat"}


def record_attempt(delivery: Delivery, number: int, began_ns: int, end: Payload | Stop | Expired) -> None:
    """The span of an attempt that is over and began at `began_ns`."""
    traceparent, task = delivery.event.traceparent, delivery.allowed.task
    if not tracing.is_traced(traceparent):
        return
    operation = _OPERATIONS.get(task.operation, task.operation)
    said: dict[str, str | int | float | bool] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": task.provider,
        "gen_ai.request.model": task.model,
        "skeldir.task_id": str(task.task_id),
        "skeldir.attempt_no": number,
    }
    if delivery.allowed.max_output_tokens is not None:
        said["gen_ai.request.max_tokens"] = delivery.allowed.max_output_tokens
    error = None
    if isinstance(end, TaskSucceeded | TaskFailed):
        said["gen_ai.usage.input_tokens"] = end.usage.input_tokens
        said["gen_ai.usage.output_tokens"] = end.usage.output_tokens
        error = end.reason if isinstance(end, TaskFailed) else None
    elif isinstance(end, Stop):
        error = end.reason
    tracing.record(f"{operation} {task.model}", traceparent, began_ns, said, kind=SpanKind.CLIENT, error=error)
