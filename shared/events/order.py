"""What every order on the control stream has: who gave it, and why."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from shared.events.envelope import Payload

Reason = Annotated[str, Field(min_length=1, max_length=500)]
Actor = Annotated[str, Field(min_length=1, max_length=200)]


class Order(Payload):
    """An event of the control stream."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    actor: Actor = "unspecified"
    reason: Reason
