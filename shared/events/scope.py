"""What an order applies to."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.events.tasks import TaskType


class Scope(BaseModel):
    """What a control event applies to: every part that is given must match. Empty: everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant_id: UUID | None = None
    user_id: UUID | None = None
    provider: str | None = Field(None, min_length=1, max_length=100)
    model: str | None = Field(None, min_length=1, max_length=200)
    task_type: TaskType | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_names(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = dict(value)
            for short, name in (("tenant", "tenant_id"), ("user", "user_id")):
                if short in value:
                    if name in value:
                        raise ValueError(f"give {short} or {name}, not both")
                    value[name] = value.pop(short)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Scope:
        if self.user_id is not None and self.tenant_id is None:
            raise ValueError("a user is named within a tenant: give tenant_id with user_id")
        if self.model is not None and ":" in self.model:
            provider, _, model = self.model.partition(":")
            if self.provider is not None and self.provider != provider:
                raise ValueError(f"conflicting scopes: provider {self.provider!r} and model {self.model!r}")
            return self.model_copy(update={"provider": provider, "model": model})
        return self
