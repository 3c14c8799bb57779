"""The order that says that the log has grown: only the command `skeldir partitions grow` writes it, with the record."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from shared.events.order import Order, Reason


class PartitionsSet(Order):
    """From here on the log has so many partitions: who was in p is in p, or in p and a multiple of `previous`."""

    event_type: ClassVar[str] = "partitions.set"
    type: Literal["partitions.set"] = "partitions.set"

    reason: Reason = "partitions grown"
    number: int = Field(ge=2, le=1024)
    previous: int = Field(ge=1, le=1024, description="How many there were.")

    @model_validator(mode="after")
    def _grows(self) -> PartitionsSet:
        if self.number <= self.previous or self.number % self.previous:
            raise ValueError("the number is a multiple of the previous one")
        return self
