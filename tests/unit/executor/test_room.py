"""Places: never more than there are, and each given back once."""

from __future__ import annotations

import asyncio

import pytest

from services.executor.room import Place, Room


def test_no_more_is_taken_than_there_is() -> None:
    room = Room(3)
    assert (room.take_now(2), room.take_now(5), room.take_now(1), room.free) == (2, 1, 0, 0)


def test_no_more_can_be_given_back_than_was_taken() -> None:
    with pytest.raises(AssertionError):
        Room(3).give()


async def test_who_waits_gets_the_next_place() -> None:
    room = Room(1)
    await room.take()
    waiting = asyncio.create_task(room.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    room.give()
    await asyncio.wait_for(waiting, 1)
    assert room.free == 0


def test_a_place_is_left_once() -> None:
    room = Room(2)
    room.take_now(2)
    place = Place(room)
    place.leave()
    place.leave()
    assert room.free == 1


async def test_stepping_aside_frees_the_place_meanwhile() -> None:
    room = Room(1)
    room.take_now(1)
    place = Place(room)
    async with place.stepped_aside():
        assert room.free == 1
    assert room.free == 0
    place.leave()
    assert room.free == 1


async def test_cancelled_while_aside_or_on_the_way_back_the_place_is_not_lost() -> None:
    room = Room(1)
    for take_it_meanwhile in (False, True):
        room.take_now(1)
        place, aside = Place(room), asyncio.Event()

        async def steps_aside(
            place: Place = place, aside: asyncio.Event = aside, other: bool = take_it_meanwhile
        ) -> None:
            try:
                async with place.stepped_aside():
                    aside.set()
                    if not other:
                        await asyncio.Event().wait()
                    room.take_now(1)
            finally:
                place.leave()

        task = asyncio.create_task(steps_aside())
        await aside.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if take_it_meanwhile:
            room.give()
        assert room.free == 1
