"""What operators have ordered: the fold of the control stream. Every service keeps one and asks it; none writes it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import assert_never
from uuid import UUID

from shared.bounds import TypeBounds, bounds_after
from shared.control_acts import Act, LetterReturned, Reconciliation
from shared.downgrades import Downgrades, downgrades_after
from shared.events.bounds import BoundsSet, BoundsUnset
from shared.events.control import (
    AttemptReconciled,
    CachePurged,
    ControlEvent,
    DeadLetterDiscarded,
    DeadLetterRetried,
    KeyCreated,
    KeyRevoked,
    KillSwitchEngaged,
    KillSwitchReleased,
    LimitsSet,
    PriceSet,
    ProviderBreakerChanged,
    ProviderBreakerReset,
    QuotaSet,
    QuotaUnset,
    Scope,
    ShutoffEngaged,
    ShutoffReleased,
    entry_ms,
    to_ms,
)
from shared.events.downgrades import DowngradeSet, DowngradeUnset
from shared.events.partitions import PartitionsSet
from shared.events.prices import Prices
from shared.events.privacy import PrivacySet, TextsErased
from shared.events.tasks import TaskRef
from shared.events.webhooks import WebhookRemoved, WebhookSet
from shared.money import from_cents
from shared.privacy import NO_PRIVACY, Privacy, TenantPrivacy, privacy_after
from shared.provider_breakers import Model, ProviderBreaker, after_change, after_reset
from shared.quotas import Quotas, quotas_after

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Switch:
    """An engaged kill switch."""

    scope: Scope
    reason: str
    actor: str
    since_ms: int
    until_ms: int | None

    def stops(self, tenant_id: UUID, user_id: UUID, task: TaskRef, now_ms: int) -> bool:
        """Whether it holds now, and every part of its scope matches the task."""
        if self.until_ms is not None and now_ms >= self.until_ms:
            return False
        wanted = self.scope
        return (
            wanted.tenant_id in (None, tenant_id)
            and wanted.user_id in (None, user_id)
            and wanted.provider in (None, task.provider)
            and wanted.model in (None, task.model)
            and wanted.task_type in (None, task.task_type)
        )


@dataclass(frozen=True, slots=True)
class Shutoff:
    """A manual hourly shutoff of one user."""

    reason: str
    actor: str
    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that an operator set; None where nothing was set. Money in nanocents."""

    hourly: int | None = None
    monthly: int | None = None
    max_in_flight: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, known by its hash."""

    key_id: str
    tenant_id: UUID
    user_id: UUID | None
    role: str
    until_ms: int | None
    actor: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events of these types go: a tenant's own, or (`tenant_id` None) everybody's."""

    webhook_id: str
    tenant_id: UUID | None
    url: str
    events: frozenset[str]
    actor: str
    since_ms: int


@dataclass(frozen=True)
class ControlState:
    """Switches by scope, shutoffs by user, limits by user or tenant (`user_id` None), keys by the secret's SHA-256,
    prices by tenant (None: every one), provider and model, quotas, downgrades and privacy by tenant, bounds by tenant
    (None: every one) and task type, webhooks by id.

    `acts` are in the stream's order; each is a person's, so there are few, and they are kept for good.
    """

    position: str = "0-0"
    switches: dict[Scope, Switch] = field(default_factory=dict)
    shutoffs: dict[tuple[UUID, UUID], Shutoff] = field(default_factory=dict)
    limits: dict[tuple[UUID, UUID | None], Limits] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    prices: dict[tuple[UUID | None, str, str], Prices] = field(default_factory=dict)
    provider_breakers: dict[Model, ProviderBreaker] = field(default_factory=dict)
    quotas: Quotas = field(default_factory=dict)
    bounds: TypeBounds = field(default_factory=dict)
    downgrades: Downgrades = field(default_factory=dict)
    privacy: Privacy = field(default_factory=dict)
    webhooks: dict[str, Webhook] = field(default_factory=dict)
    cache_epochs: dict[tuple[UUID, UUID | None], str] = field(default_factory=dict)
    """The last purge of a user's cache, or of a tenant's (`user_id` None): its place in the control stream."""
    acts: tuple[Act, ...] = ()
    partitions: tuple[int, ...] = ()
    """What the log is said to have grown to, and from: the newest number first. Empty: it never did."""

    def switch_for(self, tenant_id: UUID, user_id: UUID, task: TaskRef, now_ms: int) -> Switch | None:
        """The kill switch that stops this task now, if one does."""
        for switch in self.switches.values():
            if switch.stops(tenant_id, user_id, task, now_ms):
                return switch
        return None

    def shutoff_for(self, tenant_id: UUID, user_id: UUID, now_ms: int) -> Shutoff | None:
        """The manual shutoff that holds for this user now, if one does."""
        shutoff = self.shutoffs.get((tenant_id, user_id))
        return shutoff if shutoff is not None and now_ms < shutoff.until_ms else None

    def privacy_of(self, tenant_id: UUID) -> TenantPrivacy:
        """What is stored of a tenant's texts, and what blocks its prompts."""
        return self.privacy.get(tenant_id, NO_PRIVACY)

    def cache_epoch(self, tenant_id: UUID, user_id: UUID) -> str:
        """The last purge that concerns this user; empty before the first. Answers of another epoch are not served."""
        found = (self.cache_epochs.get((tenant_id, one), "") for one in (user_id, None))
        return max(found, key=lambda epoch: order_of(epoch or "0"))

    def acts_since(self, position: str) -> list[Act]:
        """What was ordered to be done after this position of the control stream."""
        first = bisect_right(self.acts, order_of(position), key=lambda act: order_of(act.position))
        return list(self.acts[first:])

    def key_for(self, secret_sha256: str, now_ms: int) -> Key | None:
        """The key with this hash, unless it was revoked or has ended."""
        key = self.keys.get(secret_sha256)
        return key if key is not None and (key.until_ms is None or now_ms < key.until_ms) else None


def evolve(state: ControlState, entry_id: str, event: ControlEvent) -> ControlState:
    """The state after the control entry `entry_id`. An entry that was applied already changes nothing."""
    if order_of(entry_id) <= order_of(state.position):
        return state
    state = replace(state, position=entry_id)
    now_ms = entry_ms(entry_id)
    match event:
        case KillSwitchEngaged():
            until_ms = to_ms(event.until) if event.until else None
            switch = Switch(event.scope, event.reason, event.actor, now_ms, until_ms)
            return replace(state, switches={**state.switches, event.scope: switch})
        case KillSwitchReleased():
            switches = {scope: switch for scope, switch in state.switches.items() if scope != event.scope}
            return replace(state, switches=switches)
        case ShutoffEngaged():
            shutoff = Shutoff(event.reason, event.actor, now_ms, shutoff_end_ms(event, now_ms))
            return replace(state, shutoffs={**state.shutoffs, _user(event.scope): shutoff})
        case ShutoffReleased():
            user = _user(event.scope)
            return replace(state, shutoffs={key: value for key, value in state.shutoffs.items() if key != user})
        case LimitsSet():
            owner = (_tenant(event.scope), event.scope.user_id)
            limits = _limits_after(state.limits.get(owner, Limits()), event)
            return replace(state, limits={**state.limits, owner: limits})
        case QuotaSet() | QuotaUnset():
            return replace(state, quotas=quotas_after(state.quotas, entry_id, event))
        case BoundsSet() | BoundsUnset():
            return replace(state, bounds=bounds_after(state.bounds, event))
        case DowngradeSet() | DowngradeUnset():
            return replace(state, downgrades=downgrades_after(state.downgrades, entry_id, event))
        case PrivacySet():
            return replace(state, privacy=privacy_after(state.privacy, event))
        case CachePurged() | TextsErased():  # a cached answer is a text, too
            epochs = {**state.cache_epochs, (_tenant(event.scope), event.scope.user_id): entry_id}
            return replace(state, cache_epochs=epochs)
        case PriceSet():
            return replace(state, prices=_prices_after(state.prices, event, entry_id))
        case KeyCreated():
            until_ms = to_ms(event.until) if event.until else None
            key = Key(event.key_id, event.tenant_id, event.user_id, event.role, until_ms, event.actor, now_ms)
            return replace(state, keys={**state.keys, event.secret_sha256: key})
        case KeyRevoked():
            return replace(state, keys=_keys_after(state.keys, event))
        case AttemptReconciled() | DeadLetterRetried() | DeadLetterDiscarded():
            return replace(state, acts=(*state.acts, _act(entry_id, event)))
        case ProviderBreakerChanged() | ProviderBreakerReset():
            return replace(state, provider_breakers=_breakers_after(state.provider_breakers, event, entry_id))
        case WebhookSet():
            hook = Webhook(event.webhook_id, event.tenant_id, event.url, frozenset(event.events), event.actor, now_ms)
            return replace(state, webhooks={**state.webhooks, event.webhook_id: hook})
        case WebhookRemoved():
            left = {name: hook for name, hook in state.webhooks.items() if name != event.webhook_id}
            return replace(state, webhooks=left)
        case PartitionsSet():
            return replace(state, partitions=(event.number, *(state.partitions or (event.previous,))))
        case _:
            assert_never(event)


def _act(entry_id: str, event: AttemptReconciled | DeadLetterRetried | DeadLetterDiscarded) -> Act:
    if isinstance(event, AttemptReconciled):
        cost = from_cents(event.cost_cents)
        return Reconciliation(entry_id, event.tenant_id, event.decision_id, cost, event.actor)
    return LetterReturned(entry_id, event.origin, event.entry_id, isinstance(event, DeadLetterDiscarded))


def shutoff_end_ms(event: ShutoffEngaged, now_ms: int) -> int:
    """When a manual shutoff ends: as it says, else with the clock hour."""
    if event.until is not None:
        return to_ms(event.until)
    if event.minutes is not None:
        return now_ms + int(event.minutes * 60_000)
    return (now_ms // HOUR_MS + 1) * HOUR_MS


def stops_nothing(order: ControlEvent, now_ms: int) -> bool:
    """Whether an order to stop has ended before it is given: whoever gives it believes that calls stop.

    Asked where an order is taken, and not in the fold: one that is in the stream holds, or held, as it says.
    """
    if isinstance(order, KillSwitchEngaged):
        return order.until is not None and to_ms(order.until) <= now_ms
    return isinstance(order, ShutoffEngaged) and shutoff_end_ms(order, now_ms) <= now_ms


def _limits_after(before: Limits, event: LimitsSet) -> Limits:
    return Limits(
        hourly=before.hourly if event.hourly_cents is None else from_cents(event.hourly_cents),
        monthly=before.monthly if event.monthly_cents is None else from_cents(event.monthly_cents),
        max_in_flight=before.max_in_flight if event.max_in_flight is None else event.max_in_flight,
    )


def _keys_after(before: dict[str, Key], event: KeyRevoked) -> dict[str, Key]:
    if event.until is None:
        return {digest: key for digest, key in before.items() if key.key_id != event.key_id}
    end_ms = to_ms(event.until)
    return {
        digest: replace(key, until_ms=min(end_ms, key.until_ms or end_ms)) if key.key_id == event.key_id else key
        for digest, key in before.items()
    }


def _prices_after(
    before: dict[tuple[UUID | None, str, str], Prices], event: PriceSet, entry_id: str
) -> dict[tuple[UUID | None, str, str], Prices]:
    assert event.scope.provider is not None and event.scope.model is not None, "validated when the event was parsed"
    of = (event.scope.tenant_id, event.scope.provider, event.scope.model)
    if event.rates is None:
        return {key: prices for key, prices in before.items() if key != of}
    rates = event.rates.model_dump(exclude_none=True)
    return {**before, of: Prices(source=f"control {entry_id}", rates=rates)}


def _breakers_after(
    before: dict[Model, ProviderBreaker], event: ProviderBreakerChanged | ProviderBreakerReset, entry_id: str
) -> dict[Model, ProviderBreaker]:
    model = (event.provider, event.model)
    if isinstance(event, ProviderBreakerChanged):
        return {**before, model: after_change(event, entry_id)}
    return {**before, model: after_reset(before.get(model, ProviderBreaker()), event, entry_id)}


def _tenant(scope: Scope) -> UUID:
    assert scope.tenant_id is not None, "validated when the event was parsed"
    return scope.tenant_id


def _user(scope: Scope) -> tuple[UUID, UUID]:
    assert scope.user_id is not None, "validated when the event was parsed"
    return _tenant(scope), scope.user_id


def order_of(entry_id: str) -> tuple[int, int]:
    """The order of entry ids in one stream."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
