"""Orders about downgrades: near the end of a budget, calls go to a cheaper model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from shared.events.order import Order, Reason
from shared.events.scope import Scope

BudgetWindow = Literal["hour", "month"]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]
"""With a colon of `provider:model`, else of the model alone; `*` stands for any text, `?` for a character."""


class _OfTenant(Order):
    scope: Scope = Field(description="A tenant, perhaps one user or task type of it.")
    model: Pattern = Field(description="Which models' calls: `openai:gpt-4o*`, `gpt-4o`, `*`.")
    window: BudgetWindow = Field("month", description="Which cap is looked at: the user's, and the tenant's.")

    @field_validator("scope")
    @classmethod
    def _names_a_tenant(cls, scope: Scope) -> Scope:
        if scope.tenant_id is None:
            raise ValueError("a downgrade belongs to a tenant: give tenant_id")
        if scope.provider or scope.model:
            raise ValueError("a downgrade's scope names no model: give a pattern as `model`, beside the scope")
        return scope


class DowngradeSet(_OfTenant):
    """From so many percent of a cap on, calls to these models go to another. In place of the one that was set for the
    same scope, models and window."""

    event_type: ClassVar[str] = "downgrade.set"
    type: Literal["downgrade.set"] = "downgrade.set"

    reason: Reason = "downgrade set"
    to: str = Field(max_length=200, pattern=r"^[^:\s]+:[^\s]+$", description="The cheaper model, `provider:model`.")
    percent: int = Field(ge=1, le=100, description="Of the cap, spent and reserved.")
    mode: Literal["enforce", "shadow"] = Field("enforce", description="`shadow`: only record what it would move.")


class DowngradeUnset(_OfTenant):
    """Ends the downgrade of exactly this scope, pattern and window."""

    event_type: ClassVar[str] = "downgrade.unset"
    type: Literal["downgrade.unset"] = "downgrade.unset"

    reason: Reason = "downgrade unset"
