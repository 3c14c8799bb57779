"""Meters: what each quota has counted, in its windows. Reserved before the call, settled at what was used.

They stand in the tenant's account, whatever the scope: one writer decides for all of a tenant (ADR 4), so no number of
users, keys or workers can pass a quota together. A quota in shadow mode counts what it would have let through.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from services.policy.state import Account, Circumstances, Hold, Meter, Take
from shared.events.quotas import MeterReading, QuotaBalance
from shared.events.tasks import Task
from shared.pricing import Quote, most_tokens
from shared.quotas import NO_QUOTAS, Quota, TenantQuotas, window_end_ms, window_start

NOTHING = Meter()


class Use(Struct, frozen=True):
    """What a call used. `tokens` None: nobody said, and what was reserved counts as used. `cost` in nanocents."""

    calls: int = 0
    tokens: int | None = 0
    cost: int = 0

    def of(self, take: Take) -> int:
        """How much of it counts for the meter that this was taken from."""
        match take.unit:
            case "calls":
                return self.calls
            case "tokens":
                return take.amount if self.tokens is None else self.tokens
            case "money":
                return self.cost
            case "in_flight":
                return 0


class Wanted(Struct, frozen=True):
    """What a task would take of one quota, and what the quota's meter says before."""

    quota: Quota
    start: str
    amount: int
    meter: Meter

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return fits(self.meter, self.amount, self.quota.limit)

    @property
    def take(self) -> Take:
        """As a reservation remembers it."""
        return Take(self.quota.quota_id, self.quota.unit, self.start, self.amount)

    def balance(self, meter: Meter, version: int) -> QuotaBalance:
        """As an event says it; `version` of the account that the meter stands in."""
        quota = self.quota
        return QuotaBalance(
            quota=quota.quota_id,
            scope=quota.named,
            unit=quota.unit,
            window=quota.window,
            window_start=self.start,
            limit=quota.limit,
            shadow=quota.shadow,
            spent=meter.spent,
            reserved=meter.reserved,
            version=version,
            amount=self.amount,
            resets_at_ms=window_end_ms(quota.window, self.start),
        )

    def explanation(self) -> dict[str, Any]:
        """For the person whose task does not fit."""
        return {
            "scope": self.quota.named,
            "unit": self.quota.unit,
            "window": self.quota.window,
            "window_start": self.start,
            "limit": self.quota.limit,
            "spent": self.meter.spent,
            "reserved": self.meter.reserved,
            "wanted": self.amount,
            "resets_at_ms": window_end_ms(self.quota.window, self.start),
            "quota": self.quota.quota_id,
        }


def of_tenant(tenant_id: UUID, now: Circumstances) -> TenantQuotas:
    """The quotas of a tenant."""
    return now.control.quotas.get(tenant_id, NO_QUOTAS)


def fits(meter: Meter, amount: int, limit: int) -> bool:
    """Whether `amount` more can be reserved."""
    return meter.spent + meter.reserved + amount <= limit


def wanted(
    tenant: Account, quotas: TenantQuotas, user_id: UUID, task: Task, price: Quote, now_ms: int
) -> tuple[Wanted, ...]:
    """What the task would take of each quota that bounds it: its worst case."""
    found = []
    tokens: int | None = None
    for quota in quotas.bounding(user_id, task):
        match quota.unit:
            case "calls" | "in_flight":
                amount = 1
            case "tokens":
                tokens = amount = most_tokens(task, price.max_output_tokens) if tokens is None else tokens
            case "money":
                amount = price.amount
        windows = tenant.meters.get(quota.quota_id, {})
        # Never an earlier window than the meter has seen: a clock that goes back opens none again.
        start = max([window_start(quota.window, now_ms), *windows])
        found.append(Wanted(quota, start, amount, windows.get(start, NOTHING)))
    return tuple(found)


def taken(tenant: Account, takes: Iterable[Take]) -> Account:
    """The tenant's account with these reserved."""
    return _changed(tenant, [(take, Meter(0, take.amount, 1)) for take in takes])


def ended(tenant: Account, hold: Hold, how: str, use: Use, quotas: TenantQuotas) -> Account:
    """The tenant's account after a reservation ended, in the windows in which it was made; also where a quota is gone.

    Of a held one only the task in flight is given back. Meters of quotas that are gone are forgotten once nothing is
    reserved in them, by the next end: the last one's event still says what they counted.
    """
    gone = tenant.meters.keys() - quotas.by_id.keys() - {take.quota_id for take in hold.takes}
    forgotten = {one for one in gone if not any(meter.holds for meter in tenant.meters[one].values())}
    if forgotten:
        kept = {quota_id: windows for quota_id, windows in tenant.meters.items() if quota_id not in forgotten}
        tenant = replace(tenant, meters=kept)
    changes = [
        (take, Meter(use.of(take), -take.amount, -1))
        for take in hold.takes
        if how != "held" or take.unit == "in_flight"
    ]
    return _changed(tenant, changes)


def still_held(takes: tuple[Take, ...]) -> tuple[Take, ...]:
    """What a reservation goes on holding when nobody knows whether its call was made."""
    return tuple(take for take in takes if take.unit != "in_flight")


def readings(tenant: Account, takes: Iterable[Take]) -> list[MeterReading]:
    """What the meters say that these were taken from."""
    return [
        MeterReading(
            quota=take.quota_id,
            unit=take.unit,
            window_start=take.start,
            spent=(meter := tenant.meters.get(take.quota_id, {}).get(take.start, NOTHING)).spent,
            reserved=meter.reserved,
            version=tenant.version,
        )
        for take in takes
    ]


def _changed(tenant: Account, changes: list[tuple[Take, Meter]]) -> Account:
    if not changes:
        return tenant
    meters = dict(tenant.meters)
    for take, by in changes:
        windows = meters.get(take.quota_id, {})
        before = windows.get(take.start, NOTHING)
        after = Meter(before.spent + by.spent, before.reserved + by.reserved, before.holds + by.holds)
        if after.reserved < 0 or after.holds < 0:
            raise ValueError(f"more released than reserved of quota {take.quota_id} in {take.start}")
        newest = max([take.start, *windows])
        kept = {start: meter for start, meter in windows.items() if start == newest or meter.holds > 0}
        # An old window's last end, too: its event says what the window came to. The next change forgets it.
        kept[take.start] = after
        meters[take.quota_id] = kept
    return replace(tenant, meters=meters)
