"""How much one executor does at once, shared by all partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """A number of places. Whoever reads work takes places first, so that no more is read than can be done."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.free = places
        self._some = asyncio.Event()
        self._some.set()

    def take_now(self, wanted: int) -> int:
        """Take up to `wanted` places without waiting; how many."""
        taken = min(wanted, self.free)
        self.free -= taken
        if not self.free:
            self._some.clear()
        return taken

    async def take(self) -> None:
        """Wait for one place, and take it."""
        while not self.take_now(1):
            await self._some.wait()

    async def wait(self) -> None:
        """Until there may be a place."""
        await self._some.wait()

    def give(self, count: int = 1) -> None:
        """Give places back."""
        assert count >= 0 and self.free + count <= self.places, "more given back than taken"
        self.free += count
        if self.free:
            self._some.set()


class Place:
    """One taken place, and who has it: to be left exactly once, whatever happens to its holder."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = True

    def leave(self) -> None:
        """Give the place back, if it is held."""
        if self._held:
            self._held = False
            self._room.give()

    @asynccontextmanager
    async def stepped_aside(self) -> AsyncIterator[None]:
        """Leave the place to others for as long as one only waits."""
        self.leave()
        yield
        await self._room.take()
        self._held = True
