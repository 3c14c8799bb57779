"""Policy's accounts and reservations, from what the books say of them. Pure.

An account has its newest hour and month, and older ones in which a reservation is open; as `services/policy/budget.py`
keeps them. What the books do not say is taken on the safe side: a breaker has proven nothing, and has no probe out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from msgspec.structs import replace

from services.policy import meters
from services.policy.desk import AccountKey
from services.policy.state import Account, Breaker, Bucket, Hold, Meter, Take
from shared.events.decisions import TaskAllowed
from shared.events.envelope import Envelope
from shared.events.quotas import MeterReading
from shared.events.tasks import TaskRef

Window = Literal["hour", "month"]


class Unbalanced(Exception):
    """What is reserved is not what the reservations say: the books are to be verified first."""


@dataclass(frozen=True, slots=True)
class Balance:
    """The last word of the books on a user's window. Money in nanocents."""

    user_id: UUID
    window: Window
    start: str
    version: int
    spent: int
    reserved: int
    calls: int


@dataclass(frozen=True, slots=True)
class TenantBooks:
    """What the books say of one tenant: every user's newest windows, and those in which `holds` are open."""

    tenant_id: UUID
    balances: tuple[Balance, ...]
    holds: tuple[Hold, ...] = ()
    breakers: Mapping[UUID, Breaker] = field(default_factory=dict)
    readings: tuple[MeterReading, ...] = ()
    """The last of each quota and window."""


def hold_of(allowed: Envelope, held_as: TaskRef | None) -> Hold:
    """The reservation that an allow made; `held_as`: its task, where nobody knows whether money went."""
    data = allowed.data
    assert isinstance(data, TaskAllowed) and allowed.tenantid is not None and allowed.userid is not None
    made = data.reservation
    takes = tuple(Take(one.quota, one.unit, one.window_start, one.amount) for one in data.quotas)
    hold = Hold(
        reservation_id=made.reservation_id,
        tenant_id=allowed.tenantid,
        user_id=allowed.userid,
        amount=made.amount,
        hour=made.hour,
        month=made.month,
        takes=takes,
    )
    if held_as is None:
        return hold
    return replace(hold, state="held", task=held_as, takes=meters.still_held(takes))


def accounts(books: TenantBooks) -> dict[AccountKey, Account]:
    """The accounts of a tenant and of its users. Raises Unbalanced."""
    users = {one.user_id for one in books.balances}
    found: dict[AccountKey, Account] = {}
    for user_id in users:
        own = [one for one in books.balances if one.user_id == user_id]
        holds = [one for one in books.holds if one.user_id == user_id]
        found[books.tenant_id, user_id] = Account(
            version=max(one.version for one in own),
            hours=_buckets("hour", own, holds),
            months=_buckets("month", own, holds),
            in_flight=sum(one.state == "live" for one in holds),
            breaker=books.breakers.get(user_id, Breaker()),
        )
    if found:
        found[books.tenant_id, None] = Account(
            version=sum(account.version for account in found.values()),
            hours=_buckets("hour", books.balances, books.holds),
            months=_buckets("month", books.balances, books.holds),
            in_flight=sum(account.in_flight for account in found.values()),
            meters=_meters(books.readings, books.holds),
        )
    return found


def _buckets(window: Window, balances: Iterable[Balance], holds: Iterable[Hold]) -> dict[str, Bucket]:
    open_holds: defaultdict[str, list[Hold]] = defaultdict(list)
    for hold in holds:
        open_holds[hold.hour if window == "hour" else hold.month].append(hold)
    rows: defaultdict[str, list[Balance]] = defaultdict(list)
    for row in balances:
        if row.window == window:
            rows[row.start].append(row)
    newest = max(rows)
    found = {}
    for start in sorted({newest, *open_holds}):
        of_window, reserved = rows[start], sum(hold.amount for hold in open_holds[start])
        if reserved != sum(row.reserved for row in of_window):
            raise Unbalanced(f"in the {window} {start}, {reserved} nanocents are reserved by reservations")
        found[start] = Bucket(
            spent=sum(row.spent for row in of_window),
            reserved=reserved,
            calls=sum(row.calls for row in of_window),
            holds=len(open_holds[start]),
        )
    return found


def _meters(readings: Iterable[MeterReading], holds: Iterable[Hold]) -> dict[str, dict[str, Meter]]:
    taken: defaultdict[tuple[str, str], int] = defaultdict(int)
    for hold in holds:
        for take in hold.takes:
            taken[take.quota_id, take.start] += 1
    found: defaultdict[str, dict[str, Meter]] = defaultdict(dict)
    for one in readings:
        found[one.quota][one.window_start] = Meter(one.spent, one.reserved, taken[one.quota, one.window_start])
    return {
        quota: {start: meter for start, meter in windows.items() if start == max(windows) or meter.holds > 0}
        for quota, windows in found.items()
    }
