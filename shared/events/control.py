"""Events on `skeldir:control`, published by operators: switches, shutoffs, limits, keys and reconciliations.
One is no operator's: policy writes `provider_breaker.changed`, which all services follow as they do a switch.

An entry's `data` is flat JSON (`{"type": "kill_switch.engaged", "scope": {...}, "reason": ..., "actor": ...}`), so
that an operator can publish one by hand from any language. The entry's id is its time and its order.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from shared.events.bounds import BoundsSet, BoundsUnset
from shared.events.decisions import BreakerState
from shared.events.downgrades import DowngradeSet, DowngradeUnset
from shared.events.envelope import NAMESPACE, named_id
from shared.events.order import Order, Reason
from shared.events.partitions import PartitionsSet
from shared.events.prices import Rate
from shared.events.privacy import PrivacySet, TextsErased
from shared.events.quotas import Unit, Window
from shared.events.scope import Scope as Scope
from shared.events.webhooks import WebhookRemoved, WebhookSet
from shared.money import from_cents
from shared.partitions import CONTROL

FIRST_MOMENT = datetime(1, 1, 1, tzinfo=UTC)
LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def _in_the_calendar(moment: datetime) -> datetime:
    """The moment, or the first or last that can be told in UTC: by its offset it may lie beyond, and its last fraction
    of a second may round up to there. What was ordered so holds for ever; it is not refused, since an order that is in
    the stream already must go on holding."""
    return min(max(moment, FIRST_MOMENT), LAST_MOMENT)


Moment = Annotated[AwareDatetime, AfterValidator(_in_the_calendar)]


class KillSwitchEngaged(Order):
    """No call starts in this scope, from now until it is released or `until` has passed."""

    event_type: ClassVar[str] = "kill_switch.engaged"
    type: Literal["kill_switch.engaged"] = "kill_switch.engaged"

    scope: Scope = Scope()
    until: Moment | None = None


class KillSwitchReleased(Order):
    """Ends the switch that was engaged with exactly this scope."""

    event_type: ClassVar[str] = "kill_switch.released"
    type: Literal["kill_switch.released"] = "kill_switch.released"

    scope: Scope = Scope()


class _UserScoped(Order):
    scope: Scope

    @field_validator("scope")
    @classmethod
    def _names_a_user(cls, scope: Scope) -> Scope:
        if scope.tenant_id is None or scope.user_id is None:
            raise ValueError("a shutoff is for one user: give tenant_id and user_id")
        if scope.provider or scope.model or scope.task_type:
            raise ValueError("a shutoff is for one user: provider, model and task_type do not apply")
        return scope


class ShutoffEngaged(_UserScoped):
    """Blocks one user's tasks with this reason until `until` (or for `minutes`; else until the hour ends)."""

    event_type: ClassVar[str] = "shutoff.engaged"
    type: Literal["shutoff.engaged"] = "shutoff.engaged"

    until: Moment | None = None
    minutes: float | None = Field(None, gt=0, le=60 * 24 * 366)

    @model_validator(mode="after")
    def _one_end(self) -> ShutoffEngaged:
        if self.until is not None and self.minutes is not None:
            raise ValueError("give until or minutes, not both")
        return self


class ShutoffReleased(_UserScoped):
    """Ends a manual shutoff."""

    event_type: ClassVar[str] = "shutoff.released"
    type: Literal["shutoff.released"] = "shutoff.released"


class LimitsSet(Order):
    """Limits of one user, or of a tenant as a whole. What is not given stays as it was."""

    event_type: ClassVar[str] = "limits.set"
    type: Literal["limits.set"] = "limits.set"

    reason: Reason = "limits set"
    scope: Scope
    hourly_cents: int | float | str | None = None
    monthly_cents: int | float | str | None = None
    max_in_flight: int | None = Field(None, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _says_something(self) -> LimitsSet:
        if self.scope.tenant_id is None:
            raise ValueError("limits belong to a tenant: give tenant_id")
        if self.scope.provider or self.scope.model or self.scope.task_type:
            raise ValueError("limits are by tenant and user: provider, model and task_type do not apply")
        if self.hourly_cents is None and self.monthly_cents is None and self.max_in_flight is None:
            raise ValueError("give at least one of hourly_cents, monthly_cents and max_in_flight")
        for cents in (self.hourly_cents, self.monthly_cents):
            if cents is not None:
                from_cents(cents)
        return self


class QuotaScope(Scope):
    """What a quota bounds, within one tenant. Empty but for the tenant: all of it."""

    key_id: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{4,40}$", description="An API key; the inbox has none.")

    @model_validator(mode="after")
    def _within_a_tenant(self) -> QuotaScope:
        if self.tenant_id is None:
            raise ValueError("quotas belong to a tenant: give tenant_id")
        return self


class QuotaSet(Order):
    """Bounds what a scope of a tenant uses in a window, from now on. Set again for the same scope, unit and window it
    goes on counting under the new limit."""

    event_type: ClassVar[str] = "quota.set"
    type: Literal["quota.set"] = "quota.set"

    reason: Reason = "quota set"
    scope: QuotaScope
    window: Window | None = Field(None, description="Clock minute, clock hour, day or month, UTC.")
    calls: int | None = Field(None, ge=0, le=2**53 - 1)
    tokens: int | None = Field(None, ge=0, le=2**53 - 1, description="Input and output together.")
    cents: int | float | str | None = None
    max_in_flight: int | None = Field(None, ge=0, le=1_000_000, description="At any moment: without a window.")
    mode: Literal["enforce", "shadow"] = Field("enforce", description="`shadow`: only record what it would block.")

    @model_validator(mode="after")
    def _one_bound(self) -> QuotaSet:
        given = [one for one in (self.calls, self.tokens, self.cents, self.max_in_flight) if one is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of calls, tokens, cents and max_in_flight")
        if (self.window is None) != (self.max_in_flight is not None):
            raise ValueError("calls, tokens and cents are per window (minute, hour, day, month); max_in_flight is not")
        if self.cents is not None:
            from_cents(self.cents)
        return self

    @property
    def unit(self) -> Unit:
        """What is counted."""
        if self.calls is not None:
            return "calls"
        if self.tokens is not None:
            return "tokens"
        return "money" if self.cents is not None else "in_flight"

    @property
    def limit(self) -> int:
        """How much of it; money in nanocents."""
        if self.cents is not None:
            return from_cents(self.cents)
        return next(one for one in (self.calls, self.tokens, self.max_in_flight) if one is not None)


class QuotaUnset(Order):
    """Ends the quota of exactly this scope, unit and window."""

    event_type: ClassVar[str] = "quota.unset"
    type: Literal["quota.unset"] = "quota.unset"

    reason: Reason = "quota unset"
    scope: QuotaScope
    unit: Unit
    window: Window | None = None


class PriceRates(BaseModel):
    """US dollars for a million tokens (or for a thousand calls), exact. What is not given costs as its side does."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    input_mtok: Rate
    output_mtok: Rate
    cache_read_mtok: Rate | None = None
    cache_write_mtok: Rate | None = None
    cache_write_1h_mtok: Rate | None = None
    requests_kcount: Rate | None = None


class PriceSet(Order):
    """The prices of a model for one tenant (none given: for all) in place of the published ones, from now on."""

    event_type: ClassVar[str] = "price.set"
    type: Literal["price.set"] = "price.set"

    reason: Reason = "price set"
    scope: Scope = Field(description="Provider and model (`*`: each that has no price of its own), perhaps a tenant.")
    rates: PriceRates | None = Field(None, description="None: the published prices hold again.")

    @field_validator("scope")
    @classmethod
    def _names_a_model(cls, scope: Scope) -> Scope:
        if scope.provider is None or scope.model is None:
            raise ValueError("a price is of one model: give provider and model")
        if scope.user_id or scope.task_type:
            raise ValueError("prices are by tenant, provider and model: user and task_type do not apply")
        return scope


class CachePurged(Order):
    """What was cached for a tenant, or one of its users, is served no more; what is being asked now is kept no more."""

    event_type: ClassVar[str] = "cache.purged"
    type: Literal["cache.purged"] = "cache.purged"

    reason: Reason = "cache purged"
    scope: Scope

    @field_validator("scope")
    @classmethod
    def _names_a_tenant(cls, scope: Scope) -> Scope:
        if scope.tenant_id is None or scope.provider or scope.model or scope.task_type:
            raise ValueError("a cache is purged by tenant, and perhaps user: give tenant_id, and nothing of the model")
        return scope


class KeyCreated(Order):
    """An API key, by the SHA-256 of its secret. The secret has 256 random bits, so a plain hash cannot be reversed."""

    event_type: ClassVar[str] = "key.created"
    type: Literal["key.created"] = "key.created"

    reason: Reason = "key created"
    key_id: str = Field(pattern=r"^[A-Za-z0-9_-]{4,40}$")
    secret_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant_id: UUID
    user_id: UUID | None = None
    role: Literal["producer", "operator", "auditor"]
    until: Moment | None = None


class KeyRevoked(Order):
    """The key with this id is refused from now on, or from `until` on (when another takes its place)."""

    event_type: ClassVar[str] = "key.revoked"
    type: Literal["key.revoked"] = "key.revoked"

    reason: Reason = "key revoked"
    key_id: str
    until: Moment | None = None


class AttemptReconciled(Order):
    """What an uncertain attempt came to, by the provider's own account. Policy ends the reservation that it holds.

    Of a decision that holds nothing (any more) it says nothing new, and changes nothing.
    """

    event_type: ClassVar[str] = "attempt.reconciled"
    type: Literal["attempt.reconciled"] = "attempt.reconciled"

    tenant_id: UUID
    decision_id: UUID = Field(description="The allow whose attempt is uncertain; its reservation has the same id.")
    cost_cents: int | float | str = Field(description="What the provider charged; 0: nothing was spent.")

    @model_validator(mode="after")
    def _money(self) -> AttemptReconciled:
        from_cents(self.cost_cents)
        return self


class _LetterReturned(Order):
    origin: str = Field(pattern=r"^\{skeldir:[0-9]+\}:(tasks|outcomes)$", description="The stream that it came from.")
    entry_id: str = Field(pattern=r"^[0-9]+-[0-9]+$", description="Its entry in that stream.")


class DeadLetterRetried(_LetterReturned):
    """An entry of an inner stream that policy set aside is taken in again, then those of the same task behind it."""

    event_type: ClassVar[str] = "dead_letter.retried"
    type: Literal["dead_letter.retried"] = "dead_letter.retried"

    reason: Reason = "retried"


class DeadLetterDiscarded(_LetterReturned):
    """An entry of an inner stream that policy set aside is given up; those behind it are taken in."""

    event_type: ClassVar[str] = "dead_letter.discarded"
    type: Literal["dead_letter.discarded"] = "dead_letter.discarded"

    reason: Reason = "discarded"


class BreakerFigures(BaseModel):
    """What a breaker had counted when it changed: over its window, and in a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int = Field(0, ge=0)
    failed: int = Field(0, ge=0)
    slow: int = Field(0, ge=0, description="Answered, but later than `SKELDIR_PROVIDER_BREAKER_SLOW_MS`.")
    in_a_row: int = Field(0, ge=0, description="Failures without an answer in between.")


class _OfModel(Order):
    # No scope: it would take a colon in a model's name for the end of a provider's.
    provider: str = Field(min_length=1, max_length=100)
    model: str = Field(min_length=1, max_length=200)


class ProviderBreakerChanged(_OfModel):
    """A model's circuit breaker, for all tenants, changed its state. Written by policy alone, from all outcomes."""

    event_type: ClassVar[str] = "provider_breaker.changed"
    type: Literal["provider_breaker.changed"] = "provider_breaker.changed"

    state: BreakerState
    previous: BreakerState
    version: int = Field(ge=1, description="Grows by one with each change of this breaker.")
    until: Moment | None = Field(None, description="While open: when it is to be half-open.")
    openings: int = Field(0, ge=0, description="Openings in a row without closing; the open time grows with them.")
    probes: int = Field(0, ge=0, description="While half-open: calls a partition may let through in one open time.")
    figures: BreakerFigures = BreakerFigures()


class ProviderBreakerReset(_OfModel):
    """Closes a model's circuit breaker, and forgets what it has counted."""

    event_type: ClassVar[str] = "provider_breaker.reset"
    type: Literal["provider_breaker.reset"] = "provider_breaker.reset"


ControlEvent = Annotated[
    KillSwitchEngaged
    | KillSwitchReleased
    | ShutoffEngaged
    | ShutoffReleased
    | LimitsSet
    | QuotaSet
    | QuotaUnset
    | BoundsSet
    | BoundsUnset
    | DowngradeSet
    | DowngradeUnset
    | PrivacySet
    | TextsErased
    | PriceSet
    | CachePurged
    | KeyCreated
    | KeyRevoked
    | AttemptReconciled
    | DeadLetterRetried
    | DeadLetterDiscarded
    | ProviderBreakerChanged
    | ProviderBreakerReset
    | WebhookSet
    | WebhookRemoved
    | PartitionsSet,
    Field(discriminator="type"),
]

CONTROL_EVENTS: TypeAdapter[ControlEvent] = TypeAdapter(ControlEvent)


class InvalidControl(ValueError):
    """A control entry that cannot be applied; the text says what to mend."""


def parse_control(data: bytes | str | None) -> ControlEvent:
    """The control event in an entry's `data`. Raises InvalidControl with one clear line."""
    if data is None:
        raise InvalidControl("the entry has no field `data`")
    try:
        return CONTROL_EVENTS.validate_python(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise InvalidControl(f"data is not JSON: {error}") from error
    except ValidationError as error:
        raise InvalidControl(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation error, as one line that names the place."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    problem = first["msg"].removeprefix("Value error, ")
    return f"{place}: {problem}" if place else problem


def entry_ms(entry_id: bytes | str) -> int:
    """The server's time of a stream entry, in milliseconds since the epoch."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    return int(text.split("-", 1)[0])


def control_event_id(entry_id: str) -> UUID:
    """The event id of a control entry, which has no envelope."""
    return named_id(NAMESPACE, f"{CONTROL}/{entry_id}")


def to_ms(moment: datetime) -> int:
    """An aware time in milliseconds since the epoch."""
    return int(moment.timestamp() * 1000)  # not by way of another zone: year 9999 has no later hour
