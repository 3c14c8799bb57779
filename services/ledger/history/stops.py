"""Invariant 5: a stop stops."""

from __future__ import annotations

from collections.abc import Iterator

from services.ledger.history.entry import Entry, Finding
from services.ledger.history.live import Live
from services.ledger.history.orders import Orders


class Stops:
    """No call was begun later than the bound after a kill switch of its scope was engaged.

    An attempt is recorded, then the switch is looked at once more, then the call is made. So an attempt that was
    recorded too late counts where its end shows that the call was made, and the switch still held at that end.
    """

    name = "history_5_stops"
    claim = "No call starts later than the bound after a kill switch in its scope."

    def __init__(self, orders: Orders, bound_ms: int) -> None:
        self._orders = orders
        self._bound_ms = bound_ms

    def look(self, live: Live, entry: Entry) -> Iterator[Finding]:
        if not self._orders.engagements:
            return
        shown = live.shown_called(entry)
        if shown is None:
            return
        decision, attempt = shown
        life, since_ms = decision.life, attempt.entry.ms - self._bound_ms
        called = decision.allowed.task.model_copy(update={"provider": attempt.provider, "model": attempt.model})
        stop = self._orders.stopping(life.tenant_id, life.user_id, called, since_ms, entry.ms)
        if stop is not None:
            late_ms = attempt.entry.ms - stop.switch.since_ms
            expected = f"no call later than {self._bound_ms} ms after the kill switch"
            names = (f"control {stop.entry_id}", attempt.entry.name, entry.name)
            yield Finding(self.name, f"task {entry.event.subject}", expected, f"one after {late_ms} ms", names)

    def finish(self, live: Live, before_ms: int) -> Iterator[Finding]:
        yield from ()
