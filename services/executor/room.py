"""How much one executor does at once, shared by all partitions and fairly among tenants.

A free place goes to the waiting tenant that holds the fewest, and one tenant alone never holds more than its share: so
whoever floods the executor with slow calls finds it full, and everybody else still finds a place.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

# One place in so many is kept from a tenant that holds all the others.
KEPT_ONE_IN = 8


class Room:
    """A number of places, and who waits for one."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.free = places
        self.share = places - places // KEPT_ONE_IN
        self._held: Counter[UUID] = Counter()
        self._waiting: dict[UUID, deque[asyncio.Future[None]]] = {}
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def is_open(self) -> bool:
        """Whether there are places that nobody waits for: more work may be read at once."""
        return self.free > 0 and not self._waiting

    async def opened(self, timeout_s: float) -> None:
        """Until there may be places that nobody waits for, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()

    def take_now(self, tenant: UUID) -> bool:
        """Take a place, if there is one for this tenant that nobody else of it waits for; whether there was."""
        if not self.free or tenant in self._waiting or self._held[tenant] >= self.share:
            return False
        self._hold(tenant)
        return True

    async def take(self, tenant: UUID) -> None:
        """Wait for a place, and take it."""
        if self.take_now(tenant):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        self._opened.clear()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(tenant)  # it was handed a place in the moment when it gave up
            else:
                self._gives_up(tenant, turn)
            raise

    def give(self, tenant: UUID) -> None:
        """Give a place back that this tenant holds."""
        assert self._held[tenant] > 0, "more given back than taken"
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        self.free += 1
        self._hand_on()

    def _hold(self, tenant: UUID) -> None:
        self.free -= 1
        self._held[tenant] += 1
        self._note()

    def _hand_on(self) -> None:
        while self.free:
            allowed = [tenant for tenant in self._waiting if self._held[tenant] < self.share]
            if not allowed:
                break
            # Of those that hold equally few the one that was served longest ago: it stands first.
            tenant = min(allowed, key=self._held.__getitem__)
            queue = self._waiting.pop(tenant)
            turn = queue.popleft()
            if queue:
                self._waiting[tenant] = queue
            if not turn.done():
                self._hold(tenant)
                turn.set_result(None)
        self._note()

    def _gives_up(self, tenant: UUID, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[tenant]
        self._note()

    def _note(self) -> None:
        if self.is_open:
            self._opened.set()
        else:
            self._opened.clear()


class Place:
    """One place of one task, and whether it has it: to be left exactly once, whatever happens to the task."""

    def __init__(self, room: Room, tenant: UUID) -> None:
        self._room = room
        self._tenant = tenant
        self._held = False

    @property
    def is_held(self) -> bool:
        return self._held

    def take_now(self) -> bool:
        """Take the place without waiting; whether there was one."""
        self._held = self._room.take_now(self._tenant)
        return self._held

    async def take(self) -> None:
        """Wait for the place."""
        await self._room.take(self._tenant)
        self._held = True

    def leave(self) -> None:
        """Give the place back, if it is held."""
        if self._held:
            self._held = False
            self._room.give(self._tenant)

    @asynccontextmanager
    async def stepped_aside(self) -> AsyncIterator[None]:
        """Leave the place to others for as long as one only waits."""
        self.leave()
        yield
        await self.take()
