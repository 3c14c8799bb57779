"""Reserve, then settle: the arithmetic of budgets. Spent and reserved together never pass a cap by a reservation."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal
from uuid import UUID

from msgspec.structs import replace

from services.policy.state import NO_MONEY, Account, Book, Bucket, Circumstances, Hold
from shared.events.decisions import Balance

HOUR_MS = 3_600_000

How = Literal["settled", "released", "held"]


def current_hour(tenant: Account, now_ms: int) -> str:
    """The clock hour, UTC: `2026-11-23T16`. Never an earlier one than the tenant has seen: a clock that goes back must
    not open a window again whose spending was forgotten."""
    return max([_clock_hour(now_ms // HOUR_MS), *tenant.hours])


def current_month(tenant: Account, now_ms: int) -> str:
    """The calendar month, UTC: `2026-11`; as `current_hour`."""
    return max([_clock_hour(now_ms // HOUR_MS)[: len("2026-11")], *tenant.months])


@lru_cache(maxsize=4)
def _clock_hour(number: int) -> str:
    """The name of an hour, by its number since the epoch."""
    return datetime.fromtimestamp(number * HOUR_MS / 1000, UTC).strftime("%Y-%m-%dT%H")


@lru_cache(maxsize=16)
def end_of_hour_ms(hour: str) -> int:
    """When the clock hour ends, in milliseconds since the epoch."""
    return int(datetime.strptime(f"{hour}+0000", "%Y-%m-%dT%H%z").timestamp() * 1000) + HOUR_MS


def hourly_cap(now: Circumstances, tenant_id: UUID, user_id: UUID | None) -> int | None:
    """The hourly cap of a user, or of the tenant as a whole (`user_id` None); None where nothing bounds it.

    A tenant's own limit bounds all of its users together and takes the place of the default for each of them.
    """
    return _cap("hourly", now.config.hourly_threshold, now, tenant_id, user_id)


def monthly_cap(now: Circumstances, tenant_id: UUID, user_id: UUID | None) -> int | None:
    """The monthly cap, as `hourly_cap`."""
    return _cap("monthly", now.config.monthly_cap, now, tenant_id, user_id)


def _cap(
    window: Literal["hourly", "monthly"], default: int, now: Circumstances, tenant_id: UUID, user_id: UUID | None
) -> int | None:
    if not now.control.limits:
        return None if user_id is None else default
    of_tenant = now.control.limits.get((tenant_id, None))
    tenant_cap: int | None = getattr(of_tenant, window) if of_tenant else None
    if user_id is None:
        return tenant_cap
    of_user = now.control.limits.get((tenant_id, user_id))
    user_cap: int | None = getattr(of_user, window) if of_user else None
    if user_cap is not None:
        return user_cap
    return default if tenant_cap is None else None


def fits(bucket: Bucket, amount: int, cap: int | None) -> bool:
    """Whether `amount` more can be reserved under `cap`."""
    return cap is None or bucket.committed + amount <= cap


def reserve(account: Account, hold: Hold) -> Account:
    """The account with one more task in flight and its worst-case cost reserved in both windows."""
    return replace(
        account,
        version=account.version + 1,
        in_flight=account.in_flight + 1,
        hours=_adjusted(account.hours, hold.hour, reserved=hold.amount, holds=1),
        months=_adjusted(account.months, hold.month, reserved=hold.amount, holds=1),
    )


def end(account: Account, hold: Hold, how: How, cost: int) -> Account:
    """The account after the reservation ended. A held one stays reserved; only its task is no longer in flight.

    The windows are those in which it was reserved, also when the hour or the month has turned since.
    """
    in_flight = account.in_flight - (1 if hold.state == "live" else 0)
    if how == "held":
        return replace(account, version=account.version + 1, in_flight=in_flight)
    calls = 1 if how == "settled" else 0
    return replace(
        account,
        version=account.version + 1,
        in_flight=in_flight,
        hours=_adjusted(account.hours, hold.hour, reserved=-hold.amount, spent=cost, calls=calls, holds=-1),
        months=_adjusted(account.months, hold.month, reserved=-hold.amount, spent=cost, calls=calls, holds=-1),
    )


def _adjusted(
    buckets: dict[str, Bucket], window: str, *, reserved: int, holds: int, spent: int = 0, calls: int = 0
) -> dict[str, Bucket]:
    """The buckets with one changed, and without older ones that no reservation can change any more."""
    before = buckets.get(window, NO_MONEY)
    after = Bucket(before.spent + spent, before.reserved + reserved, before.calls + calls, before.holds + holds)
    if after.reserved < 0 or after.holds < 0:
        raise ValueError(f"more released than reserved in {window}: a reservation ended twice")
    if not buckets or (before is not NO_MONEY and len(buckets) == 1):
        return {window: after}
    newest = max([window, *buckets])
    kept = {name: bucket for name, bucket in buckets.items() if name == newest or bucket.holds > 0}
    kept[window] = after
    return kept


def balances(book: Book, hold: Hold, now: Circumstances) -> list[Balance]:
    """What the caps look like now, for the event: the user's, and the tenant's where it has one."""
    found = [
        _balance("user", "hour", hold.hour, book.user, hourly_cap(now, hold.tenant_id, hold.user_id)),
        _balance("user", "month", hold.month, book.user, monthly_cap(now, hold.tenant_id, hold.user_id)),
    ]
    tenant_hourly, tenant_monthly = hourly_cap(now, hold.tenant_id, None), monthly_cap(now, hold.tenant_id, None)
    if tenant_hourly is not None:
        found.append(_balance("tenant", "hour", hold.hour, book.tenant, tenant_hourly))
    if tenant_monthly is not None:
        found.append(_balance("tenant", "month", hold.month, book.tenant, tenant_monthly))
    return found


def _balance(
    scope: Literal["user", "tenant"], window: Literal["hour", "month"], start: str, account: Account, cap: int | None
) -> Balance:
    bucket = (account.hours if window == "hour" else account.months).get(start, NO_MONEY)
    return Balance(
        scope=scope,
        window=window,
        window_start=start,
        spent=bucket.spent,
        reserved=bucket.reserved,
        cap=cap,
        calls=bucket.calls,
        version=account.version,
    )
