"""Orders about bounds: how long, how dear, and how many tool calls one task of a type may be."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from shared.events.order import Order, Reason
from shared.events.scope import Scope
from shared.money import from_cents


class _OfTaskType(Order):
    scope: Scope = Field(description="A task type, perhaps of one tenant.")

    @field_validator("scope")
    @classmethod
    def _names_a_task_type(cls, scope: Scope) -> Scope:
        if scope.task_type is None:
            raise ValueError("bounds are of a task type: give task_type")
        if scope.user_id or scope.provider or scope.model:
            raise ValueError("bounds are by task type and tenant: user, provider and model do not apply")
        return scope


class BoundsSet(_OfTaskType):
    """Bounds of each task of a type, for one tenant (none given: for all). What is not given stays as it was."""

    event_type: ClassVar[str] = "bounds.set"
    type: Literal["bounds.set"] = "bounds.set"

    reason: Reason = "bounds set"
    timeout_ms: int | None = Field(None, ge=1, le=86_400_000, description="Time a call may take.")
    max_cost_cents: int | float | str | None = Field(None, description="The most one task may cost, above 0.")
    max_tool_calls: int | None = Field(
        None, ge=0, le=1_000_000, description="Tool calls that a conversation may hold; 0: nor may it offer tools."
    )

    @model_validator(mode="after")
    def _says_something(self) -> BoundsSet:
        if self.timeout_ms is None and self.max_cost_cents is None and self.max_tool_calls is None:
            raise ValueError("give at least one of timeout_ms, max_cost_cents and max_tool_calls")
        if self.max_cost_cents is not None and from_cents(self.max_cost_cents) == 0:
            raise ValueError("max_cost_cents is above 0; a kill switch with this task type stops its calls")
        return self


class BoundsUnset(_OfTaskType):
    """Ends all bounds of exactly this scope."""

    event_type: ClassVar[str] = "bounds.unset"
    type: Literal["bounds.unset"] = "bounds.unset"

    reason: Reason = "bounds unset"
