"""The fold: entries of one partition in causal order in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from services.ledger.history.allowed_before import AllowedBefore
from services.ledger.history.caps import Caps
from services.ledger.history.checks import Check
from services.ledger.history.entry import Entry, Finding, Stream
from services.ledger.history.live import Live
from services.ledger.history.one_answer import OneAnswer
from services.ledger.history.one_end import OneEnd
from services.ledger.history.order import causal
from services.ledger.history.orders import Orders
from services.ledger.history.quotas import Quotas
from services.ledger.history.stops import Stops
from services.ledger.history.uncertain import Uncertain

STOP_BOUND_MS = 3000
PENDING_MS = 3_600_000


class HistoryChecker:
    """Checks one partition. The checks see an entry with the state before it; then the state takes it over."""

    def __init__(
        self,
        orders: Orders,
        *,
        whole: bool = True,
        stop_bound_ms: int = STOP_BOUND_MS,
        taken_in: Mapping[Stream, int] | None = None,
    ) -> None:
        self.live = Live(whole=whole, taken_in=taken_in or {})
        self.checks: tuple[Check, ...] = (
            AllowedBefore(),
            OneEnd(),
            OneAnswer(),
            Caps(orders),
            Quotas(orders),
            Stops(orders, stop_bound_ms),
            Uncertain(),
        )

    def take(self, entry: Entry) -> list[Finding]:
        """What is wrong with the next entry."""
        found = [finding for check in self.checks for finding in check.look(self.live, entry)]
        self.live.apply(entry)
        return found

    def finish(self, before_ms: int) -> list[Finding]:
        """What began before that moment and should have ended."""
        return [finding for check in self.checks for finding in check.finish(self.live, before_ms)]

    def check(self, entries: Iterable[Entry], before_ms: int | None = None) -> Iterator[Finding]:
        """A whole history, sorted by place; `before_ms` None: all of it should have ended."""
        for entry in causal(entries):
            yield from self.take(entry)
        yield from self.finish(before_ms if before_ms is not None else 2**63)
