"""The scheduler: one step of one actor at a time, chosen by seeded dice, with crashes, pauses and lost replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.policy import store
from tests.simulation import books
from tests.simulation.actors import (
    Executor,
    LostReply,
    Steps,
    bookkeeper,
    breakers,
    client,
    operator,
    policy,
    repeater,
    steward,
)
from tests.simulation.checker import Checker, Violated
from tests.simulation.world import World

MAX_STEPS = 6000
FAULTY_STEPS = 500


class DidNotEnd(AssertionError):
    """Everything was well, and still the system did not come to rest."""


@dataclass
class Actor:
    """A process: one or several coroutines that crash together, and how to start it again."""

    name: str
    start: Callable[[str], Executor | Steps]
    lives: int = 0
    wakes_ms: int = 0
    body: Executor | Steps | None = None
    mortal: bool = True

    def born(self) -> None:
        """Start, in a new life: a new process has a new name."""
        self.lives += 1
        self.body = self.start(f"{self.name}.{self.lives}" if self.mortal else self.name)


def run(seed: int, tasks: int = 7) -> World:
    """One history. Raises Violated or DidNotEnd; the world's story says what happened."""
    world = World(seed)
    checker = Checker(world)
    actors = [
        Actor("client", lambda name: client(world, name, tasks), mortal=False),
        Actor("operator", lambda name: operator(world, name), mortal=False),
        Actor("steward", lambda name: steward(world, name), mortal=False),
        Actor("breakers", lambda name: breakers(world, name), mortal=False),
        Actor("bookkeeper", lambda name: bookkeeper(world, name), mortal=False),
        Actor("network", lambda name: repeater(world, name), mortal=False),
        Actor("policy-a", lambda name: policy(world, name)),
        Actor("policy-b", lambda name: policy(world, name)),
        Actor("exec-a", lambda name: Executor(world, name)),
        Actor("exec-b", lambda name: Executor(world, name)),
    ]
    for actor in actors:
        actor.born()
    try:
        for step in range(MAX_STEPS):
            if step == FAULTY_STEPS:
                world.faults = False
                world.tell("plan", "no more faults")
            _one_step(world, actors)
            checker.step()
            if not world.faults and step % 50 == 0 and _is_quiet(world, actors):
                checker.quiet()
                _check_history(world)
                return world
        raise DidNotEnd(f"not quiet after {MAX_STEPS} steps")
    except (Violated, DidNotEnd, ValueError, KeyError, AssertionError) as error:
        error.add_note(f"seed {seed}\n" + "\n".join(world.story))
        raise


def _check_history(world: World) -> None:
    """The checker of production logs must find nothing, either: it knows less, and must not cry wolf."""
    for found in books.findings(world):
        raise Violated(f"invariant {found.check.split('_')[1]}: {found}")


def _one_step(world: World, actors: list[Actor]) -> None:
    wakes = [(_wakes(actor), actor) for actor in actors if actor.body is not None]
    world.log.now_ms = now_ms = max(world.log.now_ms, min([wakes_ms for wakes_ms, _ in wakes]))
    actor = world.dice.choice([actor for wakes_ms, actor in wakes if wakes_ms <= now_ms])
    if actor.mortal:
        if world.chance(0.01):
            world.tell(actor.name, "crashes")
            actor.born()
            actor.wakes_ms = world.now_ms + world.dice.randrange(1000)
            return
        if world.chance(0.01):
            actor.wakes_ms = world.now_ms + world.dice.choice([50, 400, 1000, 2500])
            world.tell(actor.name, f"is paused until {actor.wakes_ms}")
            return
    if world.chance(0.02):
        world.log.now_ms += world.dice.choice([1, 20, 200])
    _advance(world, actor)


def _wakes(actor: Actor) -> int:
    if isinstance(actor.body, Executor):
        return max(actor.wakes_ms, min([at for at, _ in actor.body.parts]))
    return actor.wakes_ms


def _advance(world: World, actor: Actor) -> None:
    """Run one coroutine of the actor to its next yield; sometimes the reply it waits for is lost."""
    body = actor.body
    if isinstance(body, Executor):
        ready = [part for part in body.parts if part[0] <= world.now_ms]
        part = world.dice.choice(ready)
        body.parts.remove(part)
        sleeps = _resume(world, part[1], body.name)
        if sleeps is not None:
            body.parts.append((world.now_ms + sleeps, part[1]))
        elif part[1] in body.vital:
            actor.born()  # the supervisor starts a process again when one of its workers ends
        return
    assert body is not None
    sleeps = _resume(world, body, actor.name)
    if sleeps is None:
        actor.body = None
        if actor.mortal and actor.name.startswith("policy"):
            actor.born()
    else:
        actor.wakes_ms = max(actor.wakes_ms, world.now_ms + sleeps)


def _resume(world: World, steps: Steps, name: str) -> int | None:
    lossy = name.startswith(("policy", "exec", "client"))
    try:
        if lossy and steps.gi_frame is not None and steps.gi_frame.f_lasti > 0 and world.chance(0.01):  # type: ignore[attr-defined]
            return int(steps.throw(LostReply()))
        return int(next(steps))
    except (StopIteration, LostReply):
        return None


def _is_quiet(world: World, actors: list[Actor]) -> bool:
    """All was submitted, read, performed and settled, what was uncertain too."""
    if actors[0].body is not None or world.log.pending:
        return False
    holds = map(store.decode_hold, world.log.hashes.get("{skeldir:0}:reservations", {}).values())
    if any(hold.state == "held" for hold in holds):
        return False
    executors = [actor.body for actor in actors if isinstance(actor.body, Executor)]
    if any(executor.held for executor in executors) or world.log.after("decisions", world.log.delivered, 1):
        return False
    stored = world.log.hashes.get("{skeldir:0}:policy", {})
    for stream in ("tasks", "outcomes"):
        position = int(str(stored.get(stream, "0-0")).split("-")[0])
        if world.log.after(stream, position, 1):
            return False
    return not world.log.hashes.get("{skeldir:0}:parked")
