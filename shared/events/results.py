"""The result of a task as a caller sees it, kept on the task's record until it is only in the ledger."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from shared.events import completion
from shared.events.decisions import TaskBlocked
from shared.events.envelope import Envelope, Payload
from shared.events.outcomes import TaskFailed, TaskSucceeded
from shared.events.tasks import TaskType
from shared.money import to_cents

WHAT_TO_DO = {
    "provider_error:MissingCredentials": "the executor has no key of this provider: see docs/providers.md, or ask for "
    "stub:model, which needs none",
    "unknown_provider": "a model is named provider:model; GET /v1/models lists some, docs/providers.md says which "
    "providers there are",
    "unpriced": "what it costs cannot be bounded: docs/providers.md says what can be, and how to set a price",
}
"""Of refusals and failures that whoever asks, or runs the system, can do something about."""


def _number(cents: Decimal) -> int | float:
    return int(cents) if cents == int(cents) else float(cents)


Cents = Annotated[Decimal, PlainSerializer(_number, return_type=int | float, when_used="json")]


class ResultUsage(BaseModel):
    """What the task consumed. `cost_cents` is a JSON number; the ledger has the exact decimal."""

    model_config = ConfigDict(frozen=True)

    input_tokens: int = 0
    output_tokens: int = 0
    cost_cents: Cents = Decimal(0)
    latency_ms: int = 0


class TaskResult(BaseModel):
    """The end of a task."""

    model_config = ConfigDict(frozen=True)

    task_id: UUID
    api_call_id: UUID
    request_id: str
    correlation_id: str | None
    task_type: TaskType
    status: Literal["success", "blocked", "failed"]
    blocked_reason: str | None = None
    failure_reason: str | None = None
    was_cached: bool = False
    provider_attempted: bool = False
    output_text: str | None = None
    model: str
    provider: str
    requested_model: str | None = Field(
        None, description="What was asked for, `provider:model`, where the budget's end moved the task to another."
    )
    usage: ResultUsage = ResultUsage()
    completion: dict[str, Any] | None = Field(
        None,
        description="The answer in OpenAI's shape, as the provider gave it, without a text that is `output_text`.",
    )
    chunks: int = Field(0, description="In how many pieces it was streamed.")

    def shown(self) -> dict[str, Any]:
        """As JSON for who asks about a task; what only the OpenAI-compatible door needs is left out."""
        return self.model_dump(mode="json", exclude={"completion", "chunks"})


END_EVENTS = frozenset({TaskBlocked.event_type, TaskSucceeded.event_type, TaskFailed.event_type})


def result_of(event: Envelope) -> TaskResult:
    """The result that an end event (`END_EVENTS`) stands for."""
    return result_from(event.data, event.correlationid)


def result_from(end: Payload, correlation_id: str | None) -> TaskResult:
    """The result that an end stands for."""
    detail: dict[str, Any]
    if isinstance(end, TaskBlocked):
        status, detail = "blocked", {"blocked_reason": end.reason}
    elif isinstance(end, TaskFailed):
        status = "failed"
        detail = {"failure_reason": end.reason, "provider_attempted": end.provider_attempted, "usage": _usage(end)}
    elif isinstance(end, TaskSucceeded):
        status = "success"
        detail = {
            "was_cached": end.was_cached,
            "provider_attempted": end.provider_attempted,
            "output_text": end.output_text,
            "usage": _usage(end),
            "completion": completion.without_text(end.response_metadata.get("completion"), end.output_text),
            "chunks": 0 if end.was_cached else end.response_metadata.get("chunks", 0),
        }
    else:
        raise TypeError(f"{end.event_type} does not end a task")
    task = end.task
    return TaskResult.model_validate(
        {
            "task_id": task.task_id,
            "api_call_id": task.task_id,
            "request_id": task.request_id,
            "correlation_id": correlation_id,
            "task_type": task.task_type,
            "status": status,
            "model": task.model,
            "provider": task.provider,
            "requested_model": task.requested_model,
            **detail,
        }
    )


def _usage(end: TaskFailed | TaskSucceeded) -> ResultUsage:
    usage = end.usage
    return ResultUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_cents=to_cents(usage.cost),
        latency_ms=usage.latency_ms,
    )
