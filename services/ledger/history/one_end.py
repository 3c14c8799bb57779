"""Invariant 2: every submitted task has one end."""

from __future__ import annotations

from collections.abc import Iterator

from services.ledger.history.entry import Entry, Finding
from services.ledger.history.live import ENDS, Live
from shared.events.decisions import BlockReason


class OneEnd:
    """A success, a block or a failure for each submission; those without are named once they are old."""

    name = "history_2_one_end"
    claim = "Each submitted task has exactly one end."

    def look(self, live: Live, entry: Entry) -> Iterator[Finding]:
        data = entry.event.data
        if not isinstance(data, ENDS):
            return
        life = live.tasks.get(data.task.task_id)
        if life is None:
            if live.should_know(entry, "tasks", "decisions"):
                yield self._finding(entry, "a task without an end", "none: never submitted, or ended before", ())
        elif life.end is not None:
            yield self._finding(entry, "one end", f"a second, {entry.event.type}", (life.end.name,))
        # An end that was made because the log was lost ends what was given back, too: nobody decides that again.
        elif data.decision_id is not None and getattr(data, "reason", "") != BlockReason.LOG_LOST:
            decision = live.decisions.get(data.decision_id)
            if decision is not None and decision.given_back is not None:
                seen = (decision.given_back.name,)
                yield self._finding(entry, "an end by a decision in force", "one that was given back", seen)

    def finish(self, live: Live, before_ms: int) -> Iterator[Finding]:
        for life in live.tasks.values():
            if life.end is None and life.entry.ms < before_ms:
                last = max((decision.entry for decision in life.decisions), key=lambda one: one.place, default=None)
                found = "pending, not decided" if last is None else "pending, allowed"
                names = (life.entry.name,) if last is None else (life.entry.name, last.name)
                yield Finding(self.name, f"task {life.task.task_id}", "an end", found, names)

    def _finding(self, entry: Entry, expected: str, found: str, others: tuple[str, ...]) -> Finding:
        return Finding(self.name, f"task {entry.event.subject}", expected, found, (*others, entry.name))
