"""Invariant 4: the money, computed again from what was reserved and how that ended."""

from __future__ import annotations

from collections.abc import Iterator

from services.ledger.history.accounts import Accounts, Change
from services.ledger.history.entry import Entry, Finding
from services.ledger.history.live import Decision, Live
from services.ledger.history.orders import Orders
from shared.control_state import Limits, order_of
from shared.events.decisions import Balance, ReservationEnded, TaskAllowed
from shared.money import to_cents


class Caps:
    """Spent and reserved fit under the caps in force; each reservation ends once, with the amount it was made with."""

    name = "history_4_caps"
    claim = "Recomputed, spent and reserved fit under the caps, and each reservation ends once."

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self.accounts: Accounts | None = None

    def look(self, live: Live, entry: Entry) -> Iterator[Finding]:
        data = entry.event.data
        if not isinstance(data, TaskAllowed | ReservationEnded):
            return
        if self.accounts is None:
            self.accounts = Accounts(live.whole)
        if isinstance(data, TaskAllowed):
            made = data.reservation
            if made.reservation_id != entry.event.id:
                yield self._finding(entry, "a reservation under its decision's id", str(made.reservation_id))
            yield from self._caps(live, entry, data)
            change = Change(made.hour, made.month, reserved=made.amount, holds=1)
        else:
            decision = live.decisions.get(data.reservation_id)
            yield from self._ended(live, entry, data, decision)
            change = _change(data, decision, judged=live.whole)
        for problem in self.accounts.apply(entry, data.balances, change):
            yield self._finding(entry, problem.expected, problem.found)
        if isinstance(data, TaskAllowed) and data.reservation.amount:
            yield from self._fits(entry, data.balances)

    def finish(self, live: Live, before_ms: int) -> Iterator[Finding]:
        for decision in live.decisions.values():
            end = decision.life.end or decision.given_back
            if decision.state == "live" and end is not None and end.ms < before_ms:
                names = (decision.entry.name, end.name)
                subject = f"reservation {decision.allowed.reservation.reservation_id}"
                yield Finding(self.name, subject, "a reservation that ended with its task", "still reserved", names)

    def _fits(self, entry: Entry, balances: list[Balance]) -> Iterator[Finding]:
        for one in balances:
            if one.cap is not None and one.spent + one.reserved > one.cap:
                committed = f"{to_cents(one.spent + one.reserved)} spent and reserved"
                where = f"the {one.scope}'s {one.window} {one.window_start}"
                yield self._finding(entry, f"at most {to_cents(one.cap)} cents in {where}", committed)

    def _caps(self, live: Live, entry: Entry, data: TaskAllowed) -> Iterator[Finding]:
        """Whether the caps are those that operators had set, as of the orders that policy had applied."""
        tenant_id, user_id, position = entry.event.tenantid, entry.event.userid, data.control_position
        if tenant_id is None or order_of(position) > self._orders.last > (0, 0):
            return
        of_tenant = self._orders.limits(tenant_id, None, position)
        of_user = self._orders.limits(tenant_id, user_id, position)
        if not live.whole and of_tenant is None:
            return  # it may have been set before the beginning
        caps = {(one.scope, one.window): one.cap for one in data.balances}
        for window in ("hour", "month"):
            tenant_cap, user_cap = _limit(of_tenant, window), _limit(of_user, window)
            if caps.get(("tenant", window)) != tenant_cap:
                yield self._cap(entry, f"tenant's {window}", tenant_cap, caps.get(("tenant", window)))
            said = caps.get(("user", window))
            if user_cap is not None and said != user_cap:
                yield self._cap(entry, f"user's {window}", user_cap, said)
            elif user_cap is None and (said is None) != (tenant_cap is not None) and live.whole:
                yield self._finding(entry, f"the default cap of the user's {window}, or the tenant's", f"{said}")

    def _cap(self, entry: Entry, what: str, wanted: int | None, said: int | None) -> Finding:
        return self._finding(entry, f"the {what} capped at {_cents(wanted)}", _cents(said))

    def _ended(self, live: Live, entry: Entry, data: ReservationEnded, decision: Decision | None) -> Iterator[Finding]:
        if decision is None:
            if live.should_know(entry, "decisions"):
                yield self._finding(entry, f"reservation {data.reservation_id}", "none: never made, or ended before")
            return
        amount = decision.allowed.reservation.amount
        if data.reserved != amount:
            yield self._finding(entry, f"{to_cents(amount)} cents reserved", f"{to_cents(data.reserved)} given back")
        if decision.state == "ended":
            yield self._finding(entry, "a reservation that ends once", f"a second end: {data.how}")
            return
        if data.overrun != max(0, (data.settled if data.how == "settled" else 0) - data.reserved):
            yield self._finding(entry, "the overrun that settled and reserved give", f"{to_cents(data.overrun)} cents")
        cause = entry.event.causationid
        wanted = decision.settlements.get(cause) if cause is not None else None
        if wanted is None:
            if decision.state == "live" and live.should_know(entry, "outcomes"):
                yield self._finding(entry, "an end that causes it", f"{data.how}, by nothing that was recorded")
        elif wanted[0] != "held" and (data.how, data.settled) != wanted:
            cents = f"{data.how} at {to_cents(data.settled)} cents"
            yield self._finding(entry, f"{wanted[0]} at {to_cents(wanted[1])} cents", cents)

    def _finding(self, entry: Entry, expected: str, found: str) -> Finding:
        return Finding(self.name, f"task {entry.event.subject}", expected, found, (entry.name,))


def _change(data: ReservationEnded, decision: Decision | None, *, judged: bool) -> Change:
    """What the end changes, in the windows in which the reservation was made, by the amount it was made with."""
    if decision is not None:
        made = decision.allowed.reservation
        hour, month, amount = made.hour, made.month, made.amount
    else:
        hour = next((one.window_start for one in data.balances if one.window == "hour"), "")
        month = next((one.window_start for one in data.balances if one.window == "month"), "")
        amount = data.reserved
    is_over = judged if decision is None else decision.state == "ended"
    if data.how == "held" or is_over:
        return Change(hour, month)
    spent, calls = (data.settled, 1) if data.how == "settled" else (0, 0)
    return Change(hour, month, spent=spent, reserved=-amount, calls=calls, holds=-1)


def _limit(limits: Limits | None, window: str) -> int | None:
    return None if limits is None else limits.hourly if window == "hour" else limits.monthly


def _cents(amount: int | None) -> str:
    return "nothing" if amount is None else f"{to_cents(amount)} cents"
