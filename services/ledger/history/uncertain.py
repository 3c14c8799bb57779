"""Invariant 6: what nobody knows stays reserved until it is resolved, and is not tried again unless that is safe."""

from __future__ import annotations

from collections.abc import Iterator

from services.ledger.history.entry import Entry, Finding
from services.ledger.history.live import Live
from shared.events.decisions import ReservationEnded
from shared.events.outcomes import DecisionExpired


class Uncertain:
    """An uncertain end holds its reservation; only `attempt.resolved` ends a held one; a retry needs `retry_safe`."""

    name = "history_6_uncertain"
    claim = "What is uncertain keeps its reservation until it is resolved."

    def look(self, live: Live, entry: Entry) -> Iterator[Finding]:
        match entry.event.data:
            case DecisionExpired(spend="uncertain") as data:
                decision = live.decisions.get(data.decision_id)
                task = data.task if decision is None else decision.life.task
                if not task.retry_safe:
                    yield self._finding(entry, "no retry: the task does not call one safe", "it is decided again")
            case ReservationEnded() as data:
                yield from self._ended(live, entry, data)

    def finish(self, live: Live, before_ms: int) -> Iterator[Finding]:
        yield from ()

    def _ended(self, live: Live, entry: Entry, data: ReservationEnded) -> Iterator[Finding]:
        decision, cause = live.decisions.get(data.reservation_id), entry.event.causationid
        if decision is None or cause is None or decision.state == "ended":
            return
        wanted = decision.settlements.get(cause)
        if wanted is not None and wanted[0] == "held" and data.how != "held":
            yield self._finding(entry, "a reservation held as perhaps spent", data.how)
        elif wanted is None and decision.state == "held" and live.should_know(entry, "outcomes"):
            yield self._finding(entry, "held until attempt.resolved", f"{data.how}, and nothing resolved it")

    def _finding(self, entry: Entry, expected: str, found: str) -> Finding:
        return Finding(self.name, f"task {entry.event.subject}", expected, found, (entry.name,))
