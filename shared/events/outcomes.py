"""Events on `{skeldir:<p>}:outcomes`, written by the executor alone (with `task.blocked` of the last-moment check)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.events.envelope import Payload
from shared.events.prices import Prices
from shared.events.tasks import Task, TaskRef
from shared.money import Nanocents


class Usage(BaseModel):
    """What a call consumed. Zeroes for an answer from the cache."""

    model_config = ConfigDict(frozen=True)

    input_tokens: int = Field(0, ge=0, le=2**53)
    output_tokens: int = Field(0, ge=0, le=2**53)
    cost: Nanocents = 0
    tokens: dict[str, int] = Field(default={}, description="Counts by genai-prices' names: what `prices` apply to.")
    prices: Prices | None = Field(None, description="What the cost was computed by; None: the provider stated it.")
    latency_ms: int = Field(0, ge=0, le=2**53)


Spend = Literal["certain", "none", "uncertain"]


class GoneOnFrom(BaseModel):
    """The call of another model that failed and certainly cost nothing. The task's end tells of the last call alone, so
    it is told here: that model's breaker learns from it."""

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    reason: str
    provider_attempted: bool
    counts_for_breaker: bool
    latency_ms: int = Field(0, ge=0, le=2**53)


class AttemptStarted(Payload):
    """Written before the call. An attempt without an end is uncertain: money perhaps spent."""

    event_type: ClassVar[str] = "attempt.started"

    task: TaskRef
    decision_id: UUID
    attempt_id: UUID
    attempt_no: int = Field(ge=1)
    executor: str
    after: GoneOnFrom | None = Field(None, description="Set where another model is asked than by the attempt before.")


class TaskSucceeded(Payload):
    """The task has its answer, from the provider or from the cache."""

    event_type: ClassVar[str] = "task.succeeded"

    task: TaskRef
    decision_id: UUID
    attempt_id: UUID | None = None
    was_cached: bool
    provider_attempted: bool
    output_text: str
    reasoning_trace: dict[str, Any] = Field(default_factory=dict)
    response_metadata: dict[str, Any] = Field(default_factory=dict)
    usage: Usage
    cache_key: str | None = None
    cache_watermark: int = 0


class TaskFailed(Payload):
    """The task ends without an answer. `spend` says whether money went: certainly, certainly not, or nobody knows."""

    event_type: ClassVar[str] = "task.failed"

    task: TaskRef
    decision_id: UUID
    attempt_id: UUID | None = None
    reason: str = Field(description="`provider_timeout`, `provider_error:<type>`, `attempt_uncertain`, ...")
    detail: str = ""
    provider_attempted: bool
    counts_for_breaker: bool
    spend: Spend
    usage: Usage = Usage()
    cache_watermark: int = 0


class AttemptResolved(Payload):
    """What became of an uncertain attempt: a result that came late, or an operator's reconciliation (then written by
    policy onto its decisions, and of `usage` only the cost is known)."""

    event_type: ClassVar[str] = "attempt.resolved"

    task: TaskRef
    decision_id: UUID
    attempt_id: UUID | None = None
    spend: Literal["certain", "none"]
    usage: Usage
    by: str = Field(description="`late_result`, or the operator who reconciled.")


class DecisionExpired(Payload):
    """An allow was given back, and the task is decided again. Not used in time: its reservation is released. Or
    (`spend` uncertain) its attempt was lost and the task says that a retry is safe: its reservation is held."""

    event_type: ClassVar[str] = "decision.expired"

    task: Task
    decision_id: UUID
    spend: Literal["none", "uncertain"] = "none"
