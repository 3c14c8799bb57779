"""What events say of quotas: limits on a scope of a tenant, and the meters that count against them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Unit = Literal["calls", "tokens", "money", "in_flight"]
Window = Literal["minute", "hour", "day", "month"]
Count = Field(ge=0)


class MeterReading(BaseModel):
    """What one quota has counted in one window. Money in nanocents."""

    model_config = ConfigDict(frozen=True)

    quota: str = Field(description="The entry of `skeldir:control` that first set the quota.")
    unit: Unit
    window_start: str = Field(description="`2026-11-23T16:05`, `2026-11-23T16`, `2026-11-23` or `2026-11`, UTC; or ``.")
    spent: int = Count
    reserved: int = Count
    version: int = Field(
        0, ge=0, description="Of the tenant's account: the highest is the newest. 0: recorded before it was said."
    )


class QuotaBalance(MeterReading):
    """What one quota looked like at a decision, and what the task took of it (or wanted)."""

    scope: dict[str, str] = Field(description="Who and what it bounds: each part matched the task.")
    window: Window | None = Field(None, description="None: tasks in flight, at any moment.")
    limit: int = Count
    shadow: bool = Field(False, description="It only records what it would have blocked.")
    amount: int = Count
    resets_at_ms: int | None = None
