"""Events on `{skeldir:<p>}:decisions`, written by policy alone."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.events.envelope import Payload
from shared.events.prices import Prices
from shared.events.quotas import MeterReading, QuotaBalance, Unit, Window
from shared.events.tasks import Task, TaskRef
from shared.money import Nanocents, NanocentSum


class BlockReason(StrEnum):
    """Why a task is refused. A manual shutoff's reason is the operator's own words, so reasons travel as strings."""

    KILL_SWITCH = "provider_kill_switch"
    BREAKER_OPEN = "breaker_open"
    PROVIDER_BREAKER_OPEN = "provider_breaker_open"
    HOURLY_THRESHOLD = "hourly_threshold_exceeded"
    MONTHLY_CAP = "monthly_cap_exceeded"
    IN_FLIGHT = "max_in_flight_exceeded"
    QUOTA = "quota_exceeded"
    UNPRICED = "unpriced"
    UNKNOWN_PROVIDER = "unknown_provider"
    MAX_COST = "max_cost_exceeded"
    MAX_TOOL_CALLS = "max_tool_calls_exceeded"
    CONTROL_STALE = "control_stale"
    POLICY_ERROR = "policy_error"
    LOG_LOST = "log_lost"


class BreakerState(StrEnum):
    """States of a circuit breaker (Nygard, Release It!)."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Balance(BaseModel):
    """What one cap looked like after an event. The highest `version` of an account is the newest."""

    model_config = ConfigDict(frozen=True)

    scope: Literal["user", "tenant"]
    window: Literal["hour", "month"]
    window_start: str = Field(description="`2026-11-23T16` or `2026-11`, UTC.")
    spent: NanocentSum
    reserved: NanocentSum
    cap: int | None = Field(None, description="Nanocents; None where nothing bounds this scope.")
    calls: int = Field(description="Calls settled in this window.")
    version: int


class Reservation(BaseModel):
    """Worst-case cost held against the caps, until it is settled or released."""

    model_config = ConfigDict(frozen=True)

    reservation_id: UUID
    amount: Nanocents
    hour: str
    month: str


class Alternative(BaseModel):
    """A model that may be called in place of the choice, after a call that certainly cost nothing."""

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    prices: Prices | None = Field(None, description="What its call is charged by; None: it states its own cost.")
    max_output_tokens: int | None = Field(None, description="The reservation is a true bound only up to here.")
    amount: Nanocents = Field(description="Its own worst case; the reservation is the most of all of them.")


class PassedOver(BaseModel):
    """A model that could not be the choice, so that its first alternative is."""

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    reason: str


class TaskAllowed(Payload):
    """Permission to make the call, until `expires_at_ms`. The envelope's id is the decision's id."""

    event_type: ClassVar[str] = "task.allowed"

    task: Task
    reservation: Reservation
    balances: list[Balance]
    quotas: list[QuotaBalance] = Field(default_factory=list, description="The quotas that this task counts against.")
    shadowed: list[QuotaBalance] = Field(
        default_factory=list, description="Quotas in shadow mode that would have blocked it."
    )
    expires_at_ms: int
    timeout_ms: int
    max_output_tokens: int | None = Field(None, description="The reservation is a true bound only up to here.")
    prices: Prices | None = Field(None, description="What the call is charged by; None: it states its own cost.")
    alternatives: list[Alternative] = Field(
        default_factory=list, description="Models to be asked in place of the choice, in their order."
    )
    passed_over: PassedOver | None = Field(None, description="The model in whose place the choice is called.")
    cache_only: bool = Field(False, description="A breaker is open: answer from the cache, or end as blocked.")
    cache_only_reason: str | None = Field(None, description="Blocked by what; None: `breaker_open`.")
    probe: bool = Field(False, description="A call let through by a half-open breaker, of the user or of the model.")
    breaker_state: BreakerState
    control_position: str = Field(description="The last control entry that policy had applied.")


class TaskBlocked(Payload):
    """The task ends here, without a call. Written by policy, or by the executor's last-moment check."""

    event_type: ClassVar[str] = "task.blocked"

    task: TaskRef
    reason: str
    rule: str = Field(description="The file in `services/policy/rules` that says why, or `executor`.")
    explanation: dict[str, Any] = Field(default_factory=dict, description="The state and limits the rule saw.")
    breaker_state: BreakerState
    max_cost: Nanocents = 0
    cache_watermark: int = 0
    decision_id: UUID | None = Field(None, description="Set by the executor: the allow that this end takes back.")
    control_position: str


class TaskDowngraded(Payload):
    """The task goes to a cheaper model, since a budget is nearly spent. Its decision follows, about that model."""

    event_type: ClassVar[str] = "task.downgraded"

    task: TaskRef = Field(description="As it is decided: `requested_model` is what was asked for.")
    to: str = Field(description="The cheaper model, `provider:model`.")
    order: str = Field(description="The entry of `skeldir:control` that set the rule (`downgrade.set`).")
    percent: int = Field(description="Of the cap, from which on it holds.")
    balance: Balance = Field(description="The budget that is nearly spent.")
    shadow: bool = Field(False, description="Only recorded: the task goes where it was asked to.")


class ReservationEnded(Payload):
    """A reservation was settled at its true cost, released, or is held as perhaps spent. Once for each id, unless held
    before: a held one may still be settled or released, by a late result or by reconciliation."""

    event_type: ClassVar[str] = "reservation.ended"

    task: TaskRef
    reservation_id: UUID
    how: Literal["settled", "released", "held"]
    reserved: Nanocents
    settled: Nanocents = Field(description="True cost where settled; the whole reservation where held; else 0.")
    overrun: Nanocents = Field(0, description="By how much the true cost passed the reservation.")
    balances: list[Balance]
    quotas: list[MeterReading] = Field(default_factory=list, description="The quotas that the task counted against.")


class BreakerChanged(Payload):
    """A user's circuit breaker counted a failure or changed state."""

    event_type: ClassVar[str] = "breaker.changed"

    breaker_key: str
    state: BreakerState
    previous: BreakerState
    failure_count: int
    opened_at_ms: int | None = None
    last_trip_at_ms: int | None = None
    reason: str
    version: int


class ShutoffTripped(Payload):
    """A user's spending reached the hourly threshold: nothing more until the hour ends."""

    event_type: ClassVar[str] = "shutoff.tripped"

    hour: str
    threshold: Nanocents
    spent: NanocentSum
    until_ms: int
    version: int


class LimitNeared(Payload):
    """What was spent has crossed 50, 80 or 95 percent of a limit. Once for each window and percentage."""

    event_type: ClassVar[str] = "limit.neared"

    scope: Literal["user", "tenant", "quota"]
    window: Window
    window_start: str = Field(description="As in the balances, UTC.")
    percent: int
    spent: int = Field(ge=0, description="In `unit`; money in nanocents.")
    cap: int = Field(ge=0, description="In `unit`; money in nanocents.")
    version: int
    unit: Unit = "money"
    quota: str | None = Field(None, description="The quota (`quota.set`), where it is one that is neared.")
    bounds: dict[str, str] = Field(default_factory=dict, description="What that quota bounds.")
