"""One order for the three streams of a partition, in which no effect comes before its cause.

Within a stream the order is that of the entry ids. Across streams the ids tell only milliseconds of one server: within
one there is no order, and a clock that went back gives later entries of a quiet stream earlier ids. So entries are
merged by their milliseconds, and an entry whose cause (`causationid`) is in view in another stream waits until that was
taken. In view is what lies within `WINDOW_MS` of the oldest entry that was not taken yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from uuid import UUID

from services.ledger.history.entry import Entry, Stream

WINDOW_MS = 5000


def causal(entries: Iterable[Entry], window_ms: int = WINDOW_MS) -> Iterator[Entry]:
    """The entries of one partition, which come sorted by place, in causal order."""
    view = View(window_ms)
    for entry in entries:
        yield from view.pass_through(entry)
    yield from view.rest()


class View:
    """What is in view: a queue for each stream, and the ids in them. Memory: the entries of one window."""

    def __init__(self, window_ms: int = WINDOW_MS) -> None:
        self._window_ms = window_ms
        self._queues: dict[Stream, deque[Entry]] = {"tasks": deque(), "decisions": deque(), "outcomes": deque()}
        self._ids: dict[UUID, Stream] = {}

    def pass_through(self, entry: Entry) -> Iterator[Entry]:
        """Bring the next entry into view; those that leave it."""
        self._queues[entry.stream].append(entry)
        self._ids[entry.event.id] = entry.stream
        while (oldest := self._oldest_ms()) is not None and oldest < entry.ms - self._window_ms:
            yield self._take()

    def rest(self) -> Iterator[Entry]:
        """All that is in view: nothing comes any more."""
        while self._oldest_ms() is not None:
            yield self._take()

    def _oldest_ms(self) -> int | None:
        return min((queue[0].ms for queue in self._queues.values() if queue), default=None)

    def _take(self) -> Entry:
        """The first by milliseconds that waits for nothing in another stream; where all wait, the first."""
        heads = sorted((queue[0] for queue in self._queues.values() if queue), key=lambda entry: entry.ms)
        taken = next((entry for entry in heads if not self._waits(entry)), heads[0])
        self._queues[taken.stream].popleft()
        self._ids.pop(taken.event.id, None)
        return taken

    def _waits(self, entry: Entry) -> bool:
        cause = entry.event.causationid
        return cause is not None and self._ids.get(cause, entry.stream) != entry.stream
