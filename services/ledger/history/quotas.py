"""Invariant 4, for quotas: what each has counted, computed again from what was taken of it and how that ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.ledger.history.entry import Entry, Finding
from services.ledger.history.live import Decision, Live
from services.ledger.history.orders import Orders
from shared.control_state import order_of
from shared.events.decisions import ReservationEnded, TaskAllowed
from shared.events.quotas import MeterReading, QuotaBalance
from shared.quotas import Quota


@dataclass(slots=True)
class _Meter:
    spent: int = 0
    reserved: int = 0
    holds: int = 0
    known: bool = True
    """False: it may have counted before the history begins, and its first reading is taken as it is."""


class Quotas:
    """Every quota that bounds a task is reserved in before its call, never beyond its limit, and settles at what was
    used. Memory: the newest window of each quota, and those in which something is reserved."""

    name = "history_4_quotas"
    claim = "Recomputed, spent and reserved fit under each quota in force, which is asked for every call."

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._meters: dict[tuple[UUID, str], dict[str, _Meter]] = {}

    def look(self, live: Live, entry: Entry) -> Iterator[Finding]:
        data, tenant_id = entry.event.data, entry.event.tenantid
        if tenant_id is None:
            return
        if isinstance(data, TaskAllowed):
            yield from self._asked(live, entry, tenant_id, data)
            for one in data.quotas:
                yield from self._taken(live, entry, tenant_id, one, data.reservation.amount)
        elif isinstance(data, ReservationEnded):
            yield from self._ended(live, entry, tenant_id, data)

    def finish(self, live: Live, before_ms: int) -> Iterator[Finding]:
        yield from ()

    def _asked(self, live: Live, entry: Entry, tenant_id: UUID, data: TaskAllowed) -> Iterator[Finding]:
        """Whether the quotas are those that operators had set for such a task, as of the orders policy had applied."""
        position, user_id = data.control_position, entry.event.userid
        if data.cache_only or user_id is None or order_of(position) > self._orders.last > (0, 0):
            return
        bounding = self._orders.quotas(tenant_id, position).bounding(user_id, data.task)
        # A quota keeps its id when it is set again: where the first order is not in the history, nobody knows it.
        known = {one.quota_id if live.whole else _bound(one.named, one): one for one in bounding}
        for one in data.shadowed:
            if not one.shadow or one.spent + one.reserved + one.amount <= one.limit:
                yield self._finding(entry, "only what a quota in shadow mode would block is shadowed", _text(one))
        balances = (*data.quotas, *data.shadowed)
        said = {one.quota if live.whole else _bound(one.scope, one): one for one in balances}
        for name, quota in known.items():
            if name not in said:
                yield self._finding(entry, f"quota {quota.quota_id} is asked: {_of(quota)}", "not asked")
            elif (said[name].limit, said[name].shadow) != (quota.limit, quota.shadow):
                yield self._finding(entry, f"quota {quota.quota_id} as set: {_of(quota)}", _text(said[name]))
        for name, one in said.items():
            if live.whole and name not in known:
                yield self._finding(entry, "only quotas that were set", _text(one))

    def _taken(self, live: Live, entry: Entry, tenant_id: UUID, one: QuotaBalance, cost: int) -> Iterator[Finding]:
        due = {"calls": 1, "in_flight": 1, "money": cost}.get(one.unit, one.amount)
        if one.amount != due:
            yield self._finding(entry, f"{due} {one.unit} reserved", _text(one))
        windows = self._meters.setdefault((tenant_id, one.quota), {})
        if any(start > one.window_start for start in windows):
            yield self._finding(entry, f"no window before {max(windows)} is opened again", _text(one))
        windows = {start: meter for start, meter in windows.items() if meter.holds > 0 or start == one.window_start}
        self._meters[tenant_id, one.quota] = windows
        meter = windows.setdefault(one.window_start, _Meter(known=live.whole))
        meter.reserved += one.amount
        meter.holds += 1
        yield from self._compare(entry, meter, one)
        if one.spent + one.reserved > one.limit:
            yield self._finding(entry, f"at most {one.limit} {one.unit} in {one.window_start or 'flight'}", _text(one))

    def _ended(self, live: Live, entry: Entry, tenant_id: UUID, data: ReservationEnded) -> Iterator[Finding]:
        decision = live.decisions.get(data.reservation_id)
        if decision is None:  # from before the beginning: what is said is all that is known
            for reading in data.quotas:
                meter = self._meter(tenant_id, reading)
                meter.spent, meter.reserved, meter.known = reading.spent, reading.reserved, True
            return
        if decision.state == "ended":
            return  # `caps` complains
        readings = {one.quota: one for one in data.quotas}
        used = decision.uses.get(entry.event.causationid) if entry.event.causationid is not None else None
        taken = _still_taken(decision)
        if readings.keys() != {one.quota for one in taken}:
            yield self._finding(entry, f"{len(taken)} quotas, from which it took", f"{sorted(readings)}")
            return
        for one in taken:
            reading = readings[one.quota]
            meter = self._meter(tenant_id, one)
            if data.how != "held" or one.unit == "in_flight":
                spent = 0 if used is None else used.get(one.unit, 0)
                meter.spent += one.amount if spent is None else spent
                meter.reserved -= one.amount
                meter.holds -= 1
                meter.known = meter.known and used is not None
            yield from self._compare(entry, meter, reading)

    def _meter(self, tenant_id: UUID, one: MeterReading) -> _Meter:
        windows = self._meters.setdefault((tenant_id, one.quota), {})
        return windows.setdefault(one.window_start, _Meter(known=False))

    def _compare(self, entry: Entry, meter: _Meter, said: MeterReading) -> Iterator[Finding]:
        if meter.known and (meter.spent, meter.reserved) != (said.spent, said.reserved):
            wanted = f"{meter.spent} spent, {meter.reserved} reserved of quota {said.quota}"
            yield self._finding(entry, f"{wanted} in {said.window_start or 'flight'}", _text(said))
        # Taken over as it is said: one event that is wrong is one finding, not one for each that follows.
        meter.spent, meter.reserved, meter.known = said.spent, said.reserved, True

    def _finding(self, entry: Entry, expected: str, found: str) -> Finding:
        return Finding(self.name, f"task {entry.event.subject}", expected, found, (entry.name,))


def _bound(scope: Mapping[str, str], one: Quota | QuotaBalance) -> str:
    """What there is one quota of."""
    return f"{sorted(scope.items())} {one.unit} {one.window}"


def _still_taken(decision: Decision) -> Sequence[QuotaBalance]:
    """What the reservation still holds: of one that is held as perhaps spent, no task in flight any more."""
    taken = decision.allowed.quotas
    return taken if decision.state == "live" else [one for one in taken if one.unit != "in_flight"]


def _of(quota: Quota) -> str:
    mode = " in shadow mode" if quota.shadow else ""
    return f"{quota.limit} {quota.unit} a {quota.window}{mode} of {quota.named}"


def _text(one: MeterReading) -> str:
    limits = f" under {one.limit}, {one.amount} taken" if isinstance(one, QuotaBalance) else ""
    return f"{one.spent} {one.unit} spent, {one.reserved} reserved{limits} in {one.window_start or 'flight'}"
