"""What every check has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from services.ledger.history.entry import Entry, Finding
from services.ledger.history.live import Live


class Check(Protocol):
    """One invariant. `look` sees each entry with the state before it, `finish` the state at the end."""

    name: str
    claim: str

    def look(self, live: Live, entry: Entry) -> Iterator[Finding]:
        """What is wrong with this entry."""

    def finish(self, live: Live, before_ms: int) -> Iterator[Finding]:
        """What should have happened by now: since `before_ms` there was time enough."""
