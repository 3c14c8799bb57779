"""How the leases of a role spread over its processes: one that has two more than another lets one go to it.

A process that finds a lease taken leaves word of how many it has (`lease.lua`). Its holder looks at that now and then.
Nobody counts the processes, and safety needs nothing of this: whoever has a lease, its token fences the others off.
"""

from __future__ import annotations

from collections.abc import Callable


class Spread:
    """What one process has of the leases of a role. Pure but for the count."""

    def __init__(self, held: Callable[[], int], pause_s: float) -> None:
        self._held = held
        self._pause_s = pause_s
        self._again_at = 0.0

    @property
    def held(self) -> int:
        """How many leases this process has."""
        return self._held()

    def lets_go(self, other_has: int, now_s: float) -> bool:
        """Whether a lease goes to a process that wants it and has so many (-1: nobody wants it).

        One in a pause: by then the other's word is of after it has taken it.
        """
        if other_has < 0 or self.held <= other_has + 1 or now_s < self._again_at:
            return False
        self._again_at = now_s + self._pause_s
        return True
