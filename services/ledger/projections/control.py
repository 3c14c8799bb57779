"""What operators ordered: `kill_switches`, `tenant_limits`, `api_keys`, and the manual columns of the hourly shutoff.

The control stream has one order for all, and its fold (`shared/control_state.py`) is the state before each entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, assert_never
from uuid import UUID

from services.ledger.projections import rules, storable
from services.ledger.projections.hourly_shutoff import HOURLY_SHUTOFF
from services.ledger.projections.rows import Kind, Patch, Register, Table, order_stamp
from services.ledger.projections.windows import hour_of
from shared.control_state import ControlState, Shutoff, evolve, order_of, shutoff_end_ms
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
    parse_control,
)
from shared.events.downgrades import DowngradeSet, DowngradeUnset
from shared.events.envelope import at
from shared.events.partitions import PartitionsSet
from shared.events.privacy import PrivacySet, TextsErased
from shared.events.webhooks import WebhookRemoved, WebhookSet
from shared.money import from_cents

KILL_SWITCHES = Table(
    "kill_switches",
    key={"scope_key": Kind.TEXT},
    constants={
        "tenant_id": Kind.UUID,
        "user_id": Kind.UUID,
        "provider": Kind.TEXT,
        "model": Kind.TEXT,
        "task_type": Kind.TEXT,
    },
    registers=(
        Register(
            "switch_stamp",
            {
                "engaged": Kind.BOOLEAN,
                "reason": Kind.TEXT,
                "actor": Kind.TEXT,
                "until": Kind.TIME,
                "changed_at": Kind.TIME,
            },
        ),
    ),
)
LIMITS = Table(
    "tenant_limits",
    key={"tenant_id": Kind.UUID, "owner": Kind.TEXT},
    constants={"user_id": Kind.UUID},
    registers=(
        Register("hourly_stamp", {"hourly_cents": Kind.MONEY}),
        Register("monthly_stamp", {"monthly_cents": Kind.MONEY}),
        Register("in_flight_stamp", {"max_in_flight": Kind.INTEGER}),
        Register("changed_stamp", {"actor": Kind.TEXT, "reason": Kind.TEXT, "updated_at": Kind.TIME}),
    ),
)
KEYS = Table(
    "api_keys",
    key={"key_id": Kind.TEXT},
    registers=(
        Register(
            "created_stamp",
            {
                "secret_sha256": Kind.TEXT,
                "tenant_id": Kind.UUID,
                "user_id": Kind.UUID,
                "role": Kind.TEXT,
                "until": Kind.TIME,
                "created_by": Kind.TEXT,
                "created_at": Kind.TIME,
            },
        ),
        Register("revoked_stamp", {"revoked_at": Kind.TIME, "revoked_by": Kind.TEXT}),
    ),
)


def project_all(orders: Iterable[tuple[str, str]]) -> Iterator[Patch]:
    """The patches of all orders, given as entry ids and bodies in any order. Raises InvalidControl."""
    state = ControlState()
    for entry_id, body in sorted(orders, key=lambda one: order_of(one[0])):
        order = parse_control(body)
        yield from project(state, entry_id, order)
        state = evolve(state, entry_id, order)


def project(before: ControlState, entry_id: str, event: ControlEvent) -> list[Patch]:
    """The rows that an entry of the control stream changes; `before` is the state that it finds."""
    order = entry_stamp(entry_id)
    now = at(entry_ms(entry_id))
    actor, reason = storable.text(event.actor), storable.text(event.reason)
    match event:
        case KillSwitchEngaged():
            switch = {"engaged": True, "until": event.until, "switch_stamp": order, "changed_at": now}
            return [_switch(event.scope, {**switch, "actor": actor, "reason": reason})]
        case KillSwitchReleased():
            switch = {"engaged": False, "until": None, "switch_stamp": order, "changed_at": now}
            return [_switch(event.scope, {**switch, "actor": actor, "reason": reason})]
        case ShutoffEngaged():
            engaged = {
                "manual_engaged": True,
                "manual_reason": reason,
                "manual_actor": actor,
                "manual_until": at(shutoff_end_ms(event, entry_ms(entry_id))),
            }
            found = [_hour(event.scope, now, now, order, engaged)]
            previous = _holding(before, event.scope)
            if previous is not None and hour_of(at(previous.since_ms)) != hour_of(now):
                found.append(_released(event.scope, previous, now, order))
            return found
        case ShutoffReleased():
            previous = _holding(before, event.scope)
            return [] if previous is None else [_released(event.scope, previous, now, order)]
        case LimitsSet():
            return [_limits(event, order, now)]
        case QuotaSet() | QuotaUnset() | BoundsSet() | BoundsUnset() | DowngradeSet() | DowngradeUnset():
            return [rules.project(before, event, order, now)]
        case PrivacySet() | TextsErased():
            return []  # each task says what of it is stored, and `keyring.py` destroys keys
        case CachePurged():
            return []  # the cache is no part of the books
        case PriceSet():
            return []  # each call's event says by which prices it was charged
        case KeyCreated():
            row = {"key_id": event.key_id, "created_stamp": order, "created_by": actor, "created_at": now}
            who = {"tenant_id": event.tenant_id, "user_id": event.user_id, "role": event.role, "until": event.until}
            return [Patch(KEYS, {**row, **who, "secret_sha256": event.secret_sha256})]
        case KeyRevoked():
            revoked = {"revoked_stamp": order, "revoked_at": event.until or now, "revoked_by": actor}
            known = any(key.key_id == event.key_id for key in before.keys.values())
            return [Patch(KEYS, {"key_id": event.key_id, **revoked})] if known else []
        case WebhookSet() | WebhookRemoved():
            return []  # what is sent is no projection: see services/ledger/webhooks
        case AttemptReconciled() | DeadLetterRetried() | DeadLetterDiscarded():
            return []  # policy says what follows from it, and those events are projected
        case ProviderBreakerChanged() | ProviderBreakerReset() | PartitionsSet():
            return []  # the events themselves are its history
        case _:
            assert_never(event)


def subject_of(event: ControlEvent) -> tuple[UUID | None, UUID | None, str]:
    """Tenant, user, and a name of what the order is about."""
    if isinstance(event, KeyCreated):
        return event.tenant_id, event.user_id, event.key_id
    if isinstance(event, KeyRevoked):
        return None, None, storable.text(event.key_id)
    if isinstance(event, AttemptReconciled):
        return event.tenant_id, None, str(event.decision_id)
    if isinstance(event, DeadLetterRetried | DeadLetterDiscarded):
        return None, None, f"{event.origin} {event.entry_id}"
    if isinstance(event, ProviderBreakerChanged | ProviderBreakerReset):
        return None, None, storable.text(f"{event.provider}:{event.model}")
    if isinstance(event, WebhookSet):
        return event.tenant_id, None, event.webhook_id
    if isinstance(event, WebhookRemoved):
        return None, None, event.webhook_id
    if isinstance(event, PartitionsSet):
        return None, None, f"{event.previous} to {event.number}"
    return event.scope.tenant_id, event.scope.user_id, scope_key(event.scope)


def entry_stamp(entry_id: str) -> UUID:
    """The order of an entry of one stream."""
    return order_stamp(entry_ms(entry_id), int(entry_id.partition("-")[2] or 0))


def scope_key(scope: Scope) -> str:
    """The scope as JSON that is the same for equal scopes."""
    return storable.text(scope.model_dump_json(exclude_none=True))


def _switch(scope: Scope, written: dict[str, Any]) -> Patch:
    row = {
        "scope_key": scope_key(scope),
        "tenant_id": scope.tenant_id,
        "user_id": scope.user_id,
        "provider": None if scope.provider is None else storable.text(scope.provider),
        "model": None if scope.model is None else storable.text(scope.model),
        "task_type": None if scope.task_type is None else scope.task_type.value,
    }
    return Patch(KILL_SWITCHES, {**row, **written})


def _holding(before: ControlState, scope: Scope) -> Shutoff | None:
    assert scope.tenant_id is not None and scope.user_id is not None, "validated when the event was parsed"
    return before.shutoffs.get((scope.tenant_id, scope.user_id))


def _released(scope: Scope, previous: Shutoff, now: datetime, order: UUID) -> Patch:
    return _hour(scope, at(previous.since_ms), now, order, {"manual_engaged": False})


def _hour(scope: Scope, hour: datetime, now: datetime, order: UUID, written: dict[str, Any]) -> Patch:
    row = {
        "tenant_id": scope.tenant_id,
        "user_id": scope.user_id,
        "hour_start": hour_of(hour).astimezone(UTC),
        "manual_stamp": order,
        "updated_at": now,
    }
    return Patch(HOURLY_SHUTOFF, {**row, **written})


def _limits(event: LimitsSet, order: UUID, now: datetime) -> Patch:
    row: dict[str, Any] = {
        "tenant_id": event.scope.tenant_id,
        "owner": str(event.scope.user_id or "*"),
        "user_id": event.scope.user_id,
        "changed_stamp": order,
        "actor": storable.text(event.actor),
        "reason": storable.text(event.reason),
        "updated_at": now,
    }
    if event.hourly_cents is not None:
        row |= {"hourly_stamp": order, "hourly_cents": from_cents(event.hourly_cents)}
    if event.monthly_cents is not None:
        row |= {"monthly_stamp": order, "monthly_cents": from_cents(event.monthly_cents)}
    if event.max_in_flight is not None:
        row |= {"in_flight_stamp": order, "max_in_flight": event.max_in_flight}
    return Patch(LIMITS, row)
