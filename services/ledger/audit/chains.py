"""The shell of the walk: all chains in one reading of the table, on one read-only snapshot, shared among processes.

Memory of each: a page of rows, and what waits for a row that is missing.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger import months
from services.ledger.archive.record import Archive, find
from services.ledger.audit import bookmark
from services.ledger.audit.bookmark import MAX_FINDINGS, Bookmark
from services.ledger.audit.share import Found, News, Share, Walked, walk
from services.ledger.audit.strand import End, Mark
from services.ledger.chain import heads
from services.ledger.chain.link import start
from services.ledger.chain.seal import public_pem
from services.ledger.chain.walk import Broken, Place
from services.ledger.sessions import Connection, keep_events, write_as_ledger
from shared.garbage import collect_less

TIMEOUT_S = 24 * 3600.0
# Fewer rows than this are walked here: another process takes longer to start.
WORTH_A_PROCESS = 200_000
LOOK_S = 0.05

Progress = Callable[[int, int], None]
"""Told how many rows were checked, of how many."""

_BOOKS = """
SELECT system_identifier || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
FROM pg_control_system()
"""


@dataclass(slots=True)
class ChainReport:
    """What was checked and found. `findings` are the first `MAX_FINDINGS`; `broken` counts all of them.

    `unsealed`: rows at the ends of chains that no checked signature covers: the last of these can be removed unseen.
    `resumed`: rows that a run of before had checked.
    """

    rows: int = 0
    chains: int = 0
    broken: int = 0
    findings: list[Broken] = field(default_factory=list)
    unchained: int = 0
    unsealed: int = 0
    unchecked_seals: int = 0
    resumed: int = 0
    processes: int = 1
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return self.broken == 0

    def sum_up(self, found: Sequence[Found], walked: Iterable[Walked]) -> None:
        """`found`: by the runs of before."""
        every = list(found)
        for share in walked:
            every += share.found
            self.broken += share.broken
            for outcome in share.outcomes:
                self.chains += 1
                self.rows += outcome.rows
                self.unchained += outcome.unchained
                self.unsealed += outcome.unsealed
                self.unchecked_seals += outcome.unchecked_seals
        self.findings = [one for _, one in sorted(every, key=itemgetter(0))[:MAX_FINDINGS]]


async def verify_chains(
    database_url: str,
    keys: Mapping[str, Ed25519PublicKey],
    progress: Progress | None = None,
    *,
    only: int | None = None,
    resume: Path | None = None,
    archive: Path | None = None,
) -> ChainReport:
    """Check every chain (or `only` one). `keys`: public keys by their ids. The URL is the ledger's, or the owner's.

    `resume`: a file that keeps how far it is, from which another run goes on; at the end it is removed.
    `archive`: the folder of archived events, where there are some.
    Raises UnusableBookmark, ArchiveProblem, the driver's errors, OSError.
    """
    began = time.perf_counter()
    async with _snapshot(database_url, is_complete=resume is not None) as connection:
        kept = Bookmark("") if resume is None else bookmark.read(resume, await connection.fetchval(_BOOKS))
        files = await find(connection, archive)
        whole = await _whole(database_url, connection, keys, kept, only, files)
        report = ChainReport(broken=kept.broken, resumed=sum(mark.rows for mark in kept.marks.values()))
        found = list(kept.findings)
        follower = _Follower(kept, resume, report.resumed, report.resumed + sum(map(whole.left, whole.ends)), progress)
        shares = _shares(whole)
        report.processes = len(shares)
        if len(shares) == 1:
            walked = [await walk(shares[0], follower.take)]
        else:
            walked = await _in_processes(shares, follower)
        follower.end()
    report.sum_up(found, walked)
    if resume is not None:
        bookmark.remove(resume)
    report.seconds = time.perf_counter() - began
    return report


@asynccontextmanager
async def _snapshot(database_url: str, *, is_complete: bool) -> AsyncIterator[Connection]:
    """A connection that sees the books of one moment. `is_complete`: with no row missing below the last number, since
    nobody was about to append: what comes later has greater numbers."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        await months.summarize(connection)
        async with heads.held(database_url) if is_complete else nullcontext():
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            await transaction.start()
            await write_as_ledger(connection)
            await keep_events(connection)
            await connection.fetchval("SELECT count(*) FROM checkpoints")
        yield connection
    finally:
        await connection.close()


async def _whole(
    database_url: str,
    connection: Connection,
    keys: Mapping[str, Ed25519PublicKey],
    kept: Bookmark,
    only: int | None,
    archive: Archive,
) -> Share:
    """All that there is to walk."""
    rows = await connection.fetch("SELECT * FROM event_chains WHERE $1::int IS NULL OR chain = $1", only)
    # Behind the snapshot: so it is no less than any number that the snapshot shows.
    upto = await connection.fetchval("SELECT last_value FROM events_seq_seq")
    ends = {row["chain"]: End(row["length"], bytes(row["head"]), row["unchained"]) for row in rows}
    if not kept.marks:  # which has no mark at the next time is a chain that has begun since
        kept.marks = {chain: Mark(Place(0, start(chain))) for chain in ends}
    return Share(
        database_url,
        await connection.fetchval("SELECT pg_export_snapshot()"),
        upto,
        ends,
        () if only is None else None,
        dict(kept.marks),
        tuple(public_pem(key).encode() for key in keys.values()),
        archive if only is None else archive.of([only]),
    )


def _shares(whole: Share) -> list[Share]:
    """Each process gets chains, so that all have about as many rows; the first has what belongs to none."""
    many = min(os.cpu_count() or 1, len(whole.ends), sum(map(whole.left, whole.ends)) // WORTH_A_PROCESS)
    if many < 2 or whole.others is None:
        return [whole]
    piles: list[list[int]] = [[] for _ in range(many)]
    for chain in sorted(whole.ends, key=whole.left, reverse=True):
        min(piles, key=lambda pile: sum(map(whole.left, pile))).append(chain)
    others = {chain for pile in piles[1:] for chain in pile}
    return [whole.without(others), *map(whole.part, piles[1:])]


async def _in_processes(shares: Sequence[Share], follower: _Follower) -> list[Walked]:
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue(maxsize=1000)
    with ProcessPoolExecutor(len(shares), context, _set_news, (news,)) as pool:
        work = [pool.submit(_in_a_process, share) for share in shares]
        try:
            while not all(map(Future.done, work)):
                try:
                    follower.take(news.get_nowait())
                except queue.Empty:
                    await asyncio.sleep(LOOK_S)
        finally:
            pool.shutdown(cancel_futures=True)
        return [one.result() for one in work]


_news: Any = None


def _set_news(news: Any) -> None:
    global _news  # one for each process: a queue cannot be an argument of a task
    _news = news
    news.cancel_join_thread()  # what nobody takes any more need not arrive
    collect_less()


def _in_a_process(share: Share) -> Walked:
    return asyncio.run(walk(share, _news.put))


class _Follower:
    """Takes what the walks tell into the bookmark, and says how far they are."""

    def __init__(self, kept: Bookmark, file: Path | None, done: int, total: int, progress: Progress | None) -> None:
        self._kept = kept
        self._file = file
        self._done = done
        self._total = total
        self._progress = progress

    def take(self, news: News) -> None:
        self._done += news.rows
        if self._file is not None:
            self._kept.move(news.marks, news.found, news.broken)
            bookmark.write(self._file, self._kept)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def end(self) -> None:
        """Say that all is done: the last that other processes told may not have arrived when they ended."""
        if self._progress is not None:
            self._progress(self._total, self._total)
