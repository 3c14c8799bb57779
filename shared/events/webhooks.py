"""Orders about webhooks: where events go, outside."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import Field, field_validator

from shared.events.order import Order, Reason

WebhookId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{4,40}$")]
# What may be told outside, and no more: the ends of tasks, what changed for callers, and what operators did.
Told = Literal[
    "task.succeeded",
    "task.failed",
    "task.blocked",
    "breaker.changed",
    "provider_breaker.changed",
    "limit.neared",
    "shutoff.tripped",
    "kill_switch.engaged",
    "kill_switch.released",
    "shutoff.engaged",
    "shutoff.released",
    "limits.set",
    "quota.set",
    "quota.unset",
    "bounds.set",
    "bounds.unset",
    "downgrade.set",
    "downgrade.unset",
]


class WebhookSet(Order):
    """Events of these types go to this URL from now on: a tenant's, or (no tenant) everybody's, for the operators.

    With the id of one that is there, in its place. The secret that signs is no part of it, nor of any record: it is
    derived from the id (docs/webhooks.md).
    """

    event_type: ClassVar[str] = "webhook.set"
    type: Literal["webhook.set"] = "webhook.set"

    reason: Reason = "webhook set"
    webhook_id: WebhookId
    tenant_id: UUID | None = Field(None, description="Whose events. None: everybody's.")
    url: str = Field(max_length=2000)
    events: tuple[Told, ...] = Field(min_length=1, max_length=20)

    @field_validator("url")
    @classmethod
    def _can_be_called(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
            raise ValueError("a webhook's URL looks like https://host/path, without a user or password")
        if not url.isascii() or not url.isprintable() or " " in url or parts.fragment:
            raise ValueError("a webhook's URL has printable ASCII characters only, and no fragment")
        _ = parts.port  # raises ValueError for what is none
        return url


class WebhookRemoved(Order):
    """Nothing goes to this webhook any more; what waits for it is given up."""

    event_type: ClassVar[str] = "webhook.removed"
    type: Literal["webhook.removed"] = "webhook.removed"

    reason: Reason = "webhook removed"
    webhook_id: WebhookId
