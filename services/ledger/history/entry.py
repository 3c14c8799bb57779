"""What a history is made of, and what is found in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.events.envelope import Envelope

Stream = Literal["tasks", "decisions", "outcomes"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a partition, where it stands in its log. `place` is its entry id as numbers: milliseconds, count."""

    stream: Stream
    place: tuple[int, int]
    event: Envelope

    @property
    def ms(self) -> int:
        """The log server's time."""
        return self.place[0]

    @property
    def name(self) -> str:
        """The stream and the entry id, for a person who looks it up."""
        return f"{self.stream} {self.place[0]}-{self.place[1]}"


@dataclass(frozen=True, slots=True)
class Finding:
    """What contradicts an invariant: of what, what should be, what is, and the entries that say so."""

    check: str
    subject: str
    expected: str
    found: str
    entries: tuple[str, ...] = ()
