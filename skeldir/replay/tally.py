"""What came of a replay, counted: by tenant, by what was decided then, and by what is decided now. Sums only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import NamedTuple
from uuid import UUID

ALLOWED = "allowed"
CACHE_ONLY = "allowed, cache only"


class Kind(NamedTuple):
    """`before` and `after`: allowed, allowed for the cache only, or the reason of the block."""

    tenant_id: UUID
    before: str
    after: str


@dataclass(slots=True)
class Sums:
    """Decisions of one kind, and what their calls cost, in nanocents.

    `recorded`, `replayed`: known, from recorded ends. `*_held`: perhaps spent, its end is not known.
    `estimated`: of calls that were never made; each as its reservation, so at most.
    """

    decisions: int = 0
    recorded: int = 0
    recorded_held: int = 0
    replayed: int = 0
    replayed_held: int = 0
    estimated: int = 0

    def add(self, other: Sums) -> None:
        """Add another's to these."""
        for one in fields(Sums):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(slots=True)
class Tally:
    """All of it. `outside`: ends that no decider made, by their reason; they are taken as they were recorded.

    `unjudged`: steps whose beginning is not in the books. `waiting`: tasks that still wait for an outcome of their
    user when the recording ends.
    """

    kinds: dict[Kind, Sums] = field(default_factory=dict)
    outside: Counter[str] = field(default_factory=Counter)
    unjudged: int = 0
    waiting: int = 0
    steps: int = 0

    def of(self, kind: Kind) -> Sums:
        """The sums of a kind."""
        found = self.kinds.get(kind)
        if found is None:
            found = self.kinds[kind] = Sums()
        return found

    def add(self, other: Tally) -> None:
        """Add another's to these."""
        for kind, sums in other.kinds.items():
            self.of(kind).add(sums)
        self.outside += other.outside
        self.unjudged += other.unjudged
        self.waiting += other.waiting
        self.steps += other.steps

    @property
    def decisions(self) -> int:
        return sum(sums.decisions for sums in self.kinds.values())

    @property
    def changed(self) -> dict[Kind, Sums]:
        """The kinds that are not as they were."""
        return {kind: sums for kind, sums in self.kinds.items() if kind.before != kind.after}

    def tenants(self) -> dict[UUID, dict[str, int]]:
        """For each tenant what it comes to, then and now. Money in nanocents."""
        found: dict[UUID, dict[str, int]] = {}
        for kind, sums in self.kinds.items():
            row = found.setdefault(kind.tenant_id, dict.fromkeys((*_COUNTS, *MONEY), 0))
            row["decisions"] += sums.decisions
            row["allowed_before"] += sums.decisions * kind.before.startswith(ALLOWED)
            row["allowed_after"] += sums.decisions * kind.after.startswith(ALLOWED)
            for name in MONEY:
                row[name] += getattr(sums, name)
        return found


MONEY = tuple(one.name for one in fields(Sums) if one.name != "decisions")
_COUNTS = ("decisions", "allowed_before", "allowed_after")
