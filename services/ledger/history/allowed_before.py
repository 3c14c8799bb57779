"""Invariant 1: no call without a recorded allow that was in force."""

from __future__ import annotations

from collections.abc import Iterator

from services.ledger.history.entry import Entry, Finding
from services.ledger.history.live import Live
from shared.events.outcomes import AttemptStarted, TaskFailed, TaskSucceeded

CLOCK_MARGIN_MS = 1000
"""How far an executor's clock may be from the log server's."""


class AllowedBefore:
    """Each attempt has its allow before it, unexpired, and neither given back nor worked off."""

    name = "history_1_allowed_before"
    claim = "Each attempt has an allow before it that is in force."

    def look(self, live: Live, entry: Entry) -> Iterator[Finding]:
        data = entry.event.data
        if isinstance(data, AttemptStarted):
            yield from self._attempt(live, entry, data)
        elif isinstance(data, TaskSucceeded | TaskFailed) and data.provider_attempted:
            decision = live.decisions.get(data.decision_id)
            if decision is not None and not decision.attempts:
                yield self._finding(entry, "an attempt that was recorded before its call", "an end of a call", ())
        called = live.shown_called(entry)
        if called is not None:
            decision, attempt = called
            late_ms = attempt.entry.ms - decision.allowed.expires_at_ms
            if late_ms > CLOCK_MARGIN_MS:
                seen = (decision.entry.name, attempt.entry.name)
                yield self._finding(entry, "an allow that had not expired", f"a call {late_ms} ms after its end", seen)

    def finish(self, live: Live, before_ms: int) -> Iterator[Finding]:
        yield from ()

    def _attempt(self, live: Live, entry: Entry, data: AttemptStarted) -> Iterator[Finding]:
        expected = f"allow {data.decision_id} before it, in force"
        decision = live.decisions.get(data.decision_id)
        if decision is None:
            if live.should_know(entry, "decisions", "tasks"):
                yield self._finding(entry, expected, "none: never made, or worked off", ())
        elif decision.life.task.task_id != data.task.task_id:
            yield self._finding(entry, expected, "an allow of another task", (decision.entry.name,))
        elif decision.given_back is not None:
            yield self._finding(entry, expected, "it was given back", (decision.given_back.name,))
        elif decision.life.end is not None:
            yield self._finding(entry, expected, "its task had ended", (decision.life.end.name,))
        elif decision.allowed.cache_only:
            yield self._finding(entry, expected, "an allow of a cached answer only", (decision.entry.name,))

    def _finding(self, entry: Entry, expected: str, found: str, others: tuple[str, ...]) -> Finding:
        return Finding(self.name, f"task {entry.event.subject}", expected, found, (*others, entry.name))
