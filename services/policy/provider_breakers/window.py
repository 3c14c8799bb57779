"""What a model's calls came to, over a window that slides by tenths. Values only: time comes with each call."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from services.policy.provider_breakers.config import BreakerConfig
from shared.events.control import BreakerFigures
from shared.provider_breakers import Model

SLOTS = 10
# Of each tenth so many users are named who had bad calls. Where there are more, it is certainly not one user's doing.
MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class Call:
    """A call that has ended. `failed`: by the provider's fault."""

    model: Model
    user: str
    began_ms: int
    ended_ms: int
    failed: bool
    slow: bool = False

    @property
    def is_bad(self) -> bool:
        return self.failed or self.slow


@dataclass(frozen=True, slots=True)
class Slot:
    """A tenth of the window. `users`: who had bad calls; since the first of them, how many calls, and how many bad."""

    number: int
    calls: int = 0
    failed: int = 0
    slow: int = 0
    users: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """The slots that have calls, oldest first, and the failures in a row (`row_users`: of whom, two at most)."""

    slots: tuple[Slot, ...] = ()
    row: int = 0
    row_users: tuple[str, ...] = ()
    proven: int = 0
    """While half-open: probes that succeeded."""

    @property
    def figures(self) -> BreakerFigures:
        return BreakerFigures(
            calls=sum(slot.calls for slot in self.slots),
            failed=sum(slot.failed for slot in self.slots),
            slow=sum(slot.slow for slot in self.slots),
            in_a_row=self.row,
        )


def add(window: Window, call: Call, config: BreakerConfig) -> Window:
    """The window after one more call. One that ended before the newest slot is counted in that."""
    number, slots = call.ended_ms * SLOTS // config.window_ms, window.slots
    if slots and slots[-1].number >= number:
        before, newest = slots[:-1], slots[-1]
    else:
        before, newest = tuple(slot for slot in slots if slot.number > number - SLOTS), Slot(number)
    newest = Slot(
        number=newest.number,
        calls=newest.calls + 1,
        failed=newest.failed + call.failed,
        slow=newest.slow + call.slow,
        users=_counted(newest.users, call) if call.is_bad or newest.users else (),
    )
    if not call.failed:
        return Window((*before, newest), proven=window.proven)
    users = window.row_users if call.user in window.row_users else (*window.row_users, call.user)[:2]
    return Window((*before, newest), window.row + 1, users, window.proven)


def is_quiet(window: Window, now_ms: int, config: BreakerConfig) -> bool:
    """Whether nothing is left in it that could open a breaker."""
    last = window.slots[-1].number if window.slots else 0
    return window.row == 0 and last <= now_ms * SLOTS // config.window_ms - SLOTS


def why_open(window: Window, config: BreakerConfig) -> str | None:
    """The reason to open after a bad call, if there is one.

    The calls of one user alone never are: they are for the user's own breaker. So a row must be of two users at
    least, and the percentage must hold without the user who has most bad calls, too.
    """
    if config.in_a_row and window.row >= config.in_a_row and len(window.row_users) > 1:
        return f"{window.row} failures in a row"
    seen = window.figures
    bad = seen.failed + seen.slow
    if seen.calls < config.min_calls or bad * 100 < config.failure_percent * seen.calls:
        return None
    calls_of_worst, bad_of_worst = _worst(window)
    others, bad_of_others = seen.calls - calls_of_worst, bad - bad_of_worst
    if bad_of_others == 0 or bad_of_others * 100 < config.failure_percent * others:
        return None
    slow = f", {seen.slow} slow" if seen.slow else ""
    return f"{seen.failed} failed{slow} of {seen.calls} calls in {config.window_ms / 1000:g} s"


def _counted(users: tuple[tuple[str, int, int], ...], call: Call) -> tuple[tuple[str, int, int], ...]:
    for at, (user, calls, bad) in enumerate(users):
        if user == call.user:
            return (*users[:at], (user, calls + 1, bad + call.is_bad), *users[at + 1 :])
    return (*users, (call.user, 1, 1)) if call.is_bad and len(users) < MAX_NAMED else users


def _worst(window: Window) -> tuple[int, int]:
    """Calls and bad calls of the user who has most bad ones."""
    calls: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    for slot in window.slots:
        for user, made, failed in slot.users:
            calls[user] += made
            bad[user] += failed
    worst = max(bad, key=bad.__getitem__, default="")
    return calls[worst], bad[worst]
