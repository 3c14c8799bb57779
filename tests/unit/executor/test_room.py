"""Places: never more than there are, each given back once, and no tenant without one while another has all."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from services.executor.room import Place, Room

ONE, OTHER = uuid4(), uuid4()


async def queue(room: Room, *tenants: UUID) -> list[asyncio.Task[None]]:
    """Each wants a place, in this order; those that can have one have it."""
    tasks = []
    for tenant in tenants:
        tasks.append(asyncio.create_task(room.take(tenant)))
        await asyncio.sleep(0)
    return tasks


def test_no_more_can_be_given_back_than_was_taken() -> None:
    with pytest.raises(AssertionError):
        Room(3).give(ONE)


async def test_no_more_is_taken_than_there_is_and_who_waits_gets_the_next_place() -> None:
    room = Room(2)
    tasks = await queue(room, ONE, ONE, ONE)
    assert [task.done() for task in tasks] == [True, True, False] and room.free == 0
    room.give(ONE)
    await asyncio.wait_for(tasks[2], 60)
    assert room.free == 0


async def test_one_tenant_never_holds_all_places() -> None:
    room = Room(16)
    tasks = await queue(room, *[ONE] * 20)
    assert sum(task.done() for task in tasks) == room.share == 14
    assert room.free == 2 and not room.is_open, "places that this tenant may not have, and nobody else wants"
    (other,) = await queue(room, OTHER)
    assert other.done(), "another tenant need not wait for one of those calls to end"
    for task in tasks:
        task.cancel()


async def test_a_free_place_goes_to_who_holds_the_fewest() -> None:
    room = Room(4)
    tasks = await queue(room, ONE, ONE, ONE, ONE, ONE, ONE, OTHER, OTHER, OTHER)
    await_other, rest = tasks[6:], tasks[4:6]
    for done in (1, 2):
        room.give(ONE)
        await asyncio.sleep(0)
        assert [sum(task.done() for task in some) for some in (await_other, rest)] == [done, 0]
    room.give(OTHER)  # two to one: the other one again, though two of the first came before it
    await asyncio.sleep(0)
    assert [sum(task.done() for task in some) for some in (await_other, rest)] == [3, 0]
    room.give(ONE)  # one to two
    await asyncio.sleep(0)
    assert sum(task.done() for task in rest) == 1
    for task in tasks:
        task.cancel()


async def test_it_is_open_when_there_are_places_that_nobody_waits_for() -> None:
    room = Room(1)
    assert room.is_open
    _, waits = await queue(room, ONE, OTHER)
    opened = asyncio.create_task(room.opened(60))
    room.give(ONE)
    await waits
    assert not room.is_open and not opened.done()
    room.give(OTHER)
    await asyncio.wait_for(opened, 60)
    assert room.is_open
    await queue(room, ONE)
    await room.opened(0.001)
    assert not room.is_open


async def test_a_place_is_left_once() -> None:
    room = Room(2)
    place, _ = Place(room, ONE), await queue(room, ONE)
    await place.take()
    place.leave()
    place.leave()
    assert room.free == 1


async def test_stepping_aside_frees_the_place_meanwhile() -> None:
    room = Room(1)
    place = Place(room, ONE)
    await place.take()
    async with place.stepped_aside():
        assert room.free == 1
    assert room.free == 0
    place.leave()
    assert room.free == 1


@pytest.mark.parametrize("handed", [False, True])
async def test_cancelled_while_it_waits_or_when_it_was_just_handed_one_no_place_is_lost(handed: bool) -> None:
    room = Room(1)
    _, gives_up, waits = await queue(room, ONE, OTHER, OTHER)
    if handed:
        room.give(ONE)
    gives_up.cancel()
    await asyncio.gather(gives_up, return_exceptions=True)
    if not handed:
        room.give(ONE)
    await asyncio.wait_for(waits, 60)
    room.give(OTHER)
    assert room.free == 1 and room.is_open


async def test_cancelled_while_aside_or_on_the_way_back_the_place_is_not_lost() -> None:
    room = Room(1)
    for taken_meanwhile in (False, True):
        place, aside = Place(room, ONE), asyncio.Event()

        async def steps_aside(
            place: Place = place, aside: asyncio.Event = aside, other: bool = taken_meanwhile
        ) -> None:
            await place.take()
            try:
                async with place.stepped_aside():
                    aside.set()
                    if not other:
                        await asyncio.Event().wait()
                    await room.take(OTHER)
            finally:
                place.leave()

        task = asyncio.create_task(steps_aside())
        await aside.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if taken_meanwhile:
            room.give(OTHER)
        assert room.free == 1
