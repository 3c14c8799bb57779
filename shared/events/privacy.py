"""Orders about privacy: what is stored of a tenant's texts, and what may not stand in its prompts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from shared.detectors import DetectorName
from shared.events.order import Order, Reason
from shared.events.scope import Scope
from shared.events.tasks import Storage


class PrivacySet(Order):
    """What is stored of a tenant's prompts and answers, and which findings block a task. What is not given stays."""

    event_type: ClassVar[str] = "privacy.set"
    type: Literal["privacy.set"] = "privacy.set"

    scope: Scope = Field(description="A tenant.")
    reason: Reason = "privacy set"
    store: Storage | None = Field(None, description="Texts in the books: as they are, redacted, or none.")
    block: list[DetectorName] | None = Field(
        None, max_length=16, description="Detectors whose finding in a prompt blocks its task; an empty list: none."
    )

    @field_validator("scope")
    @classmethod
    def _names_a_tenant(cls, scope: Scope) -> Scope:
        if scope.tenant_id is None:
            raise ValueError("privacy is a tenant's: give tenant_id")
        if scope.user_id or scope.provider or scope.model or scope.task_type:
            raise ValueError("privacy is by tenant: user, provider, model and task type do not apply")
        return scope

    @model_validator(mode="after")
    def _says_something(self) -> PrivacySet:
        if self.store is None and self.block is None:
            raise ValueError("give store, block, or both")
        return self


class TextsErased(Order):
    """What was recorded of a user's prompts and answers until now can never be read again: its key is destroyed."""

    event_type: ClassVar[str] = "texts.erased"
    type: Literal["texts.erased"] = "texts.erased"

    scope: Scope = Field(description="A tenant and a user.")
    reason: Reason = "texts erased"

    @field_validator("scope")
    @classmethod
    def _names_a_user(cls, scope: Scope) -> Scope:
        if scope.tenant_id is None or scope.user_id is None:
            raise ValueError("texts are erased by user: give tenant_id and user_id")
        if scope.provider or scope.model or scope.task_type:
            raise ValueError("texts are erased by user: provider, model and task type do not apply")
        return scope
