"""What policy knows: accounts (budgets and breaker of a user, or of a whole tenant) and reservations. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from msgspec import Struct

from services.policy.provider_breakers.config import BreakerConfig
from shared.control_state import ControlState
from shared.events.decisions import BreakerState
from shared.events.quotas import Unit
from shared.events.tasks import TaskRef
from shared.models import PROVIDERS
from shared.money import from_cents
from shared.provider_breakers import Model
from shared.routing import price_lists_of, providers_of
from shared.settings import Settings


class Bucket(Struct, frozen=True, forbid_unknown_fields=True):
    """Money of one window (a clock hour or a calendar month, UTC), in nanocents."""

    spent: int = 0
    reserved: int = 0
    calls: int = 0
    holds: int = 0
    """Reservations that have not ended; while there is one, the window cannot be forgotten."""

    @property
    def committed(self) -> int:
        """What a cap is held against."""
        return self.spent + self.reserved


NO_MONEY = Bucket()


class Breaker(Struct, frozen=True, forbid_unknown_fields=True):
    """A user's circuit breaker."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    opened_at_ms: int | None = None
    last_trip_at_ms: int | None = None
    probes: int = 0
    """Probes in flight, while half-open."""
    proven: int = 0
    """Successes since the last failure: how many calls may be in flight before their outcome is known."""


class Meter(Struct, frozen=True, forbid_unknown_fields=True):
    """What a quota has counted in one window: calls, tokens, nanocents, or tasks in flight."""

    spent: int = 0
    reserved: int = 0
    holds: int = 0
    """As a bucket's."""


class Account(Struct, frozen=True):
    """Budgets and breaker of one user, or of a tenant as a whole. `version` grows with each change. `meters`, by quota
    and start of window, are the tenant's only."""

    version: int = 0
    hours: dict[str, Bucket] = {}
    months: dict[str, Bucket] = {}
    in_flight: int = 0
    breaker: Breaker = Breaker()
    meters: dict[str, dict[str, Meter]] = {}


class Owner(Struct, frozen=True):
    """Whose task it is."""

    tenant_id: UUID
    user_id: UUID


class Take(Struct, frozen=True, forbid_unknown_fields=True):
    """What a reservation took of one quota, and in which window: so it settles there, whatever was ordered since."""

    quota_id: str
    unit: Unit
    start: str
    amount: int


class Hold(Struct, frozen=True, forbid_unknown_fields=True):
    """A reservation that has not ended: live while its task is, or held where nobody knows whether money went."""

    reservation_id: UUID
    tenant_id: UUID
    user_id: UUID
    amount: int
    hour: str
    month: str
    state: Literal["live", "held"] = "live"
    task: TaskRef | None = None
    """Known once it is held: whoever settles it later must be able to say whose call that was."""
    probe_of_ms: int | None = None
    """Which opening of the breaker this call probes (its `opened_at_ms`)."""
    takes: tuple[Take, ...] = ()


class Probes(Struct, frozen=True):
    """How many probes of a model a partition has sent since then, under that version of its breaker."""

    version: int
    count: int
    since_ms: int


class Book(Struct, frozen=True):
    """The state that concerns one user: their account and their tenant's."""

    user: Account = Account()
    tenant: Account = Account()
    probes: Mapping[Model, Probes] = {}
    """Of the whole partition: what it has sent through half-open breakers of models."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The limits that hold where no operator set others. Money in nanocents."""

    monthly_cap: int
    hourly_threshold: int
    max_in_flight: int
    failure_threshold: int
    open_ms: int
    half_open_probes: int
    decision_ttl_ms: int
    timeout_ms: int
    default_max_output_tokens: int
    unpriced_worst_case: int | None
    provider_breakers: BreakerConfig = field(default_factory=BreakerConfig)
    providers: frozenset[str] = PROVIDERS
    price_lists: Mapping[str, str] = field(default_factory=dict)
    fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: Settings) -> PolicyConfig:
        worst = settings.unpriced_worst_case_cents
        return cls(
            monthly_cap=from_cents(settings.monthly_cap_cents),
            hourly_threshold=from_cents(settings.hourly_shutoff_cents),
            max_in_flight=settings.max_in_flight,
            failure_threshold=settings.breaker_failure_threshold,
            open_ms=int(settings.breaker_open_seconds * 1000),
            half_open_probes=settings.breaker_half_open_probes,
            decision_ttl_ms=settings.decision_ttl_ms,
            timeout_ms=settings.provider_timeout_ms,
            default_max_output_tokens=settings.default_max_output_tokens,
            unpriced_worst_case=None if worst is None else from_cents(worst),
            provider_breakers=BreakerConfig.from_settings(settings),
            providers=providers_of(settings),
            price_lists=price_lists_of(settings),
            fallbacks=settings.fallbacks,
        )


class Circumstances(Struct, frozen=True):
    """All that a decision depends on besides the book and the task: the time, the limits, and the operators' orders."""

    now_ms: int
    config: PolicyConfig
    control: ControlState
