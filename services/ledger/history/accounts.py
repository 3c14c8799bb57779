"""Accounts by user and tenant, hour and month, computed again; held against what each event says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from services.ledger.history.entry import Entry
from shared.events.decisions import Balance
from shared.money import to_cents


@dataclass(frozen=True, slots=True)
class Change:
    """What one event changes in an hour and a month, in nanocents."""

    hour: str
    month: str
    spent: int = 0
    reserved: int = 0
    calls: int = 0
    holds: int = 0


class Problem(NamedTuple):
    """What a balance should be, and is."""

    expected: str
    found: str


@dataclass(slots=True)
class _Window:
    spent: int = 0
    reserved: int = 0
    calls: int = 0
    holds: int = 0
    known: bool = True
    """False: it was open before the history begins, and its first balance is taken as it is."""


@dataclass(slots=True)
class _Account:
    version: int | None
    windows: dict[str, dict[str, _Window]] = field(default_factory=lambda: {"hour": {}, "month": {}})


class Accounts:
    """All accounts. Memory: one account for each user and tenant, with the windows in which reservations are open."""

    def __init__(self, whole: bool) -> None:
        self._whole = whole
        self._accounts: dict[tuple[UUID, UUID | None], _Account] = {}

    def apply(self, entry: Entry, balances: Sequence[Balance], change: Change) -> Iterator[Problem]:
        """Change the user's and the tenant's account; what the event says of them must be what follows."""
        tenant_id, user_id = entry.event.tenantid, entry.event.userid
        if tenant_id is None or user_id is None:
            yield Problem("an event that names tenant and user", "none")
            return
        for scope, key in (("user", (tenant_id, user_id)), ("tenant", (tenant_id, None))):
            said = {one.window: one for one in balances if one.scope == scope}
            account = self._account(key)
            yield from _versions(account, scope, [one.version for one in said.values()])
            for kind, start in (("hour", change.hour), ("month", change.month)):
                window = self._window(account, kind, start)
                _adjust(window, change)
                if kind in said:
                    yield from _compare(window, said[kind], start)
                elif scope == "user":
                    yield Problem(f"the user's balance of the {kind}", "none")

    def _account(self, key: tuple[UUID, UUID | None]) -> _Account:
        return self._accounts.setdefault(key, _Account(version=0 if self._whole else None))

    def _window(self, account: _Account, kind: str, start: str) -> _Window:
        """The window; older ones in which nothing is reserved any more cannot change, and are forgotten."""
        windows = account.windows[kind]
        if start not in windows:
            newest = max([start, *windows])
            account.windows[kind] = windows = {
                name: one for name, one in windows.items() if name == newest or one.holds > 0
            }
            windows[start] = _Window(known=self._whole)
        return windows[start]


def _adjust(window: _Window, change: Change) -> None:
    window.spent += change.spent
    window.reserved += change.reserved
    window.calls += change.calls
    window.holds += change.holds


def _versions(account: _Account, scope: str, said: Sequence[int]) -> Iterator[Problem]:
    """Each event about an account is its next version; so one that is missing leaves a gap."""
    wanted = None if account.version is None else account.version + 1
    if wanted is not None and any(one != wanted for one in said):
        yield Problem(f"version {wanted} of the {scope}'s account", ", ".join(map(str, said)))
    account.version = max(said) if said else wanted


def _compare(window: _Window, said: Balance, start: str) -> Iterator[Problem]:
    if said.window_start != start:
        yield Problem(f"a balance of {start}", said.window_start)
    found = (said.spent, said.reserved, said.calls)
    if window.known and found != (window.spent, window.reserved, window.calls):
        place = f"in the {said.scope}'s {said.window} {start}"
        yield Problem(_money(window.spent, window.reserved, window.calls, place), _money(*found))
    # Taken over as it is said: one event that is wrong is one finding, not one for each that follows.
    window.spent, window.reserved, window.calls = found
    window.known = True


def _money(spent: int, reserved: int, calls: int, place: str = "") -> str:
    return f"{to_cents(spent)} spent, {to_cents(reserved)} reserved, {calls} calls {place}".rstrip()
