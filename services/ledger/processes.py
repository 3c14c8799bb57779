"""Work on the books, shared among processes: a piece each, and one progress for all."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

from shared.garbage import collect_less

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int], None]
"""Told how much is done, of how much."""
Tell = Callable[[int], None]
"""Told how much more is done."""
Work = Callable[[T, Tell], Coroutine[Any, Any, R]]
"""Does one piece. It goes to another process by its name: a function of a module, or a `partial` of one."""

LOOK_S = 0.2
WORTH_A_PROCESS = 50_000
"""So many events take longer than it takes to start a process."""


def piles(weights: Mapping[T, int], least: int) -> list[list[T]]:
    """The keys in as many piles as there are processors, of about the same weight; a pile is worth `least`."""
    count = max(1, min(len(weights), os.cpu_count() or 1, sum(weights.values()) // max(1, least)))
    found: list[list[T]] = [[] for _ in range(count)]
    for key in sorted(weights, key=weights.__getitem__, reverse=True):
        min(found, key=lambda pile: sum(weights[one] for one in pile)).append(key)
    return found


async def shared(work: Work[T, R], pieces: Sequence[T], total: int, progress: Progress | None = None) -> list[R]:
    """Do the pieces, each in a process that is free; what came of them, in their order. A single one is done here.

    `total` is what the pieces tell of, together. Where one fails its error is raised, and no other is begun.
    """
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    processes = min(len(pieces), os.cpu_count() or 1)
    if processes < 2:
        found = [await work(piece, tell) for piece in pieces]
    else:
        found = await asyncio.to_thread(_in_processes, work, pieces, processes, tell)
    tell(total - done)
    return found


def _in_processes(work: Work[T, R], pieces: Sequence[T], processes: int, tell: Tell) -> list[R]:
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue(maxsize=10_000)
    with ProcessPoolExecutor(processes, context, _set_news, (news,)) as pool:
        futures: list[Future[R]] = [pool.submit(_in_a_process, work, piece) for piece in pieces]
        while True:
            done, going_on = wait(futures, timeout=0, return_when=FIRST_EXCEPTION)
            if not going_on or any(one.exception() is not None for one in done):
                break
            try:
                tell(news.get(timeout=LOOK_S))
            except queue.Empty:
                continue
        for one in going_on:
            one.cancel()
        failed = next((one for one in futures if one.done() and not one.cancelled() and one.exception()), None)
        return [one.result() for one in (futures if failed is None else [failed])]


_news: Any = None


def _set_news(news: Any) -> None:
    global _news  # one for each process: a queue cannot be an argument of a task
    _news = news
    _news.cancel_join_thread()  # what nobody hears any more does not keep the process


def _in_a_process(work: Work[T, R], piece: T) -> R:
    collect_less()
    return asyncio.run(work(piece, _tell))


def _tell(more: int) -> None:
    if not _news.full():
        _news.put(more)
