"""The writer of one source: under its lease it reads a batch, and commits it with its checkpoint, again and again.

The lease keeps two processes from working on the same streams; what makes it safe is the checkpoint's row, locked and
compared in each commit: a worker that was paused, and wakes up beside its successor, writes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import asyncpg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.ledger import books, continuity
from services.ledger.books import Overtaken
from services.ledger.chain.sealer import Sealer
from services.ledger.intake import skip
from services.ledger.keyring import KeyDestroyed, Keyring
from services.ledger.metrics import COMMIT_SECONDS, DUPLICATES, EVENTS, LAG_SECONDS, SKIPPED
from services.ledger.sessions import UNUSABLE, Pool
from services.ledger.sources import Batch, Page, Source
from services.ledger.spans import record_commit
from services.ledger.webhooks.outbox import Outbox
from shared.control_state import order_of
from shared.settings import Settings
from shared.streams.lease import Fenced, Lease
from shared.streams.read import BLOCK_MS, read_after, xread
from shared.streams.script import script
from shared.streams.spread import Spread
from shared.texts.master_key import UnusableMasterKey

RETRY_S = 0.2
MAX_RETRY_S = 5.0
# A batch is a transaction, whatever its size: what comes within so long of the first entry is one. The books are that
# much later, which no caller waits for; a task in a quiet partition is one transaction instead of three.
GATHER_S = 0.1
# Behind a batch of so many it gathers longer: what a commit costs beside its entries is then shared by more of them.
BUSY, BUSY_GATHER_S = 50, 0.25
# SQLSTATE classes of what is wrong with the data, not with the server: data exception, integrity, program limit.
POISON_CLASSES = ("22", "23", "54")

log = structlog.get_logger(__name__)


class Writer:
    """Wants the lease of one source, and takes its streams into the books while it has it."""

    def __init__(
        self,
        pool: Pool,
        redis: Redis,
        source: Source,
        lease_key: str,
        owner: str,
        settings: Settings,
        ledger_key: str | None,
        outbox: Outbox | None = None,
        seal_key: Ed25519PrivateKey | None = None,
        keyring: Keyring | None = None,
        spread: Spread | None = None,
    ) -> None:
        self._pool = pool
        self._redis = redis
        self._source = source
        self._settings = settings
        self._checkpoint = script(redis, "services.ledger", "checkpoint")
        self._lease = Lease(redis, lease_key, owner, settings.lease_ttl_ms, spread)
        self._ledger_key = ledger_key
        self._outbox = outbox
        self._keyring = keyring
        self._sealer = Sealer(seal_key, source.chain, settings.seal_events, settings.seal_seconds)
        self._positions: dict[str, str] = {}
        self._behind = False
        """The last read found a whole batch: there is more, and nothing to wait for."""
        self._last_size = 0
        self._wait_s = RETRY_S
        self.token = 0
        self.problem: str | None = "has not tried to take its lease yet"

    async def run(self) -> None:
        """Lead whenever the lease can be had, until cancelled; through lost servers too."""
        log_ = log.bind(source=self._source.name)
        while True:
            rest_s = self._settings.lease_ttl_ms / 4000
            try:
                if self._outbox is not None:
                    await self._outbox.ready()
                await self._reach_database()
                self.token = await self._lease.take()
                if self.token:
                    log_.info("leads", token=self.token)
                    await self._lead()
                    await self._lease.give_back()
                    log_.info("lets go, to a process that leads fewer")
                    rest_s *= 4  # so that the other one takes it
                self.problem = None
            except Fenced:
                log_.warning("the lease went to another worker")
            except KeyDestroyed as destroyed:
                assert self._keyring is not None, "there is no key without it"
                self._keyring.forget()
                log_.info("reads again", problem=str(destroyed))
            except continuity.Broken as broken:
                self.problem = str(broken)
            except UnusableMasterKey as error:
                self.problem = f"texts cannot be encrypted: {error}"
            except Overtaken as overtaken:
                log_.warning("overtaken", problem=str(overtaken))
            except RedisError as error:
                self.problem = f"the log cannot be reached: {error}"
            except UNUSABLE as error:
                self.problem = f"the database cannot be written: {type(error).__name__}: {error}"
            except Exception as error:  # a fault of ours: this source stands still and says so, the others go on
                self.problem = f"the ledger failed here: {type(error).__name__}: {error}"
                log_.error("failed, and begins again", exc_info=error)
                with suppress(RedisError):
                    await self._lease.give_back()  # to a process that has no such fault, where there is one
            if self.problem is not None:
                log_.warning("stopped", problem=self.problem)
                self._wait_s = min(self._wait_s * 2, MAX_RETRY_S)
            self.token = 0
            await asyncio.sleep(self._wait_s if self.problem else rest_s)

    async def _reach_database(self) -> None:
        """So that no lease is asked of a process that works, by one that cannot."""
        async with self._pool.acquire() as connection:
            await connection.execute("SELECT 1")

    async def stop(self) -> None:
        """Give the lease back, so that the next worker need not wait for its end."""
        await self._lease.give_back()

    async def _lead(self) -> None:
        """Take batches, until another process is to have the lease. Raises Fenced, Overtaken, or a server's error."""
        async with self._pool.acquire() as connection:
            self._positions = await books.positions(connection, self._source.streams)
            await self._source.load(connection, self._positions)
        await self._go_on()
        self.problem = None
        self._wait_s = RETRY_S
        renewal = asyncio.create_task(self._lease.keep(self.token))
        try:
            while not renewal.done():
                await self.take_batch()
                await self._sealer.seal_if_due(self._pool)
        finally:
            renewal.cancel()
        await renewal

    async def _go_on(self) -> None:
        """Say how far the books go, which is the word that policy waits for on a log that it does not know.

        Raises continuity.Broken: before that word, where the log was lost; behind it, where the books are what goes
        back, so that no more is trimmed.
        """
        checkpoints = {stream: self._positions[stream] for stream in self._source.goes_on}
        found = await continuity.standings(self._redis, checkpoints, self._source.policy)
        continuity.refuse(found, lost=True)
        await self._publish(self._positions)
        continuity.refuse(found, lost=False)

    async def take_batch(self) -> None:
        """Wait for an entry and for those that follow it, and take them into the books."""
        if not self._behind:
            if not await read_after(self._redis, self._positions, 1, BLOCK_MS):
                return
            await asyncio.sleep(BUSY_GATHER_S if self._last_size >= BUSY else GATHER_S)
        # Only what replicas have: the books cannot take back what a failover makes undone.
        page: Page = await self._lease.read(self.token, xread(self._positions, self._settings.batch_size))
        self._behind = any(len(entries) >= self._settings.batch_size for entries in page.values())
        self._last_size = sum(map(len, page.values()))
        if not page:
            return
        try:
            await self._commit(await self._read(page))
        except Exception as error:
            if not is_poison(error):
                raise
            log.warning("a batch is taken entry by entry", source=self._source.name, problem=str(error))
            await self._one_by_one(page)
        await self._publish({stream: self._positions[stream] for stream in page})

    async def _one_by_one(self, page: Page) -> None:
        """Find the entry that cannot be stored: it is skipped, the others go in."""
        for stream, entries in page.items():
            for entry in entries:
                try:
                    await self._commit(await self._read({stream: [entry]}))
                except Exception as error:
                    if not is_poison(error):
                        raise
                    skipped = skip(stream, entry, f"the ledger cannot store it: {type(error).__name__}: {error}")
                    await self._commit(Batch(after={stream: entry[0].decode()}, skips=[skipped]))

    async def _read(self, page: Page) -> Batch:
        """Decode and project, with the data keys that it takes."""
        opened, keyring = self._source.open(page), self._keyring
        while keyring is not None and (missing := keyring.missing(opened.owners)):
            await keyring.fetch(self._pool, missing)
        return self._source.read(opened)

    async def _commit(self, batch: Batch) -> None:
        before = {stream: self._positions[stream] for stream in batch.after}
        began, began_ns = time.perf_counter(), time.time_ns()
        async with self._pool.acquire() as connection:
            new = await books.commit(
                connection, before, batch.after, batch.records, batch.skips, batch.letters, self._outbox
            )
        COMMIT_SECONDS.observe(time.perf_counter() - began)
        if self._outbox is not None:
            self._outbox.committed()
        self._positions.update(batch.after)
        self._source.advance(batch)
        self._sealer.appended(new)
        self._count(batch, new)
        record_commit(batch.records, began_ns)

    def _count(self, batch: Batch, new: int) -> None:
        for stream, records in Counter(record.stream for record in batch.records).items():
            EVENTS.labels(stream.rpartition(":")[2]).inc(records)
        for skipped in batch.skips:
            SKIPPED.labels(skipped.stream).inc()
        DUPLICATES.inc(len(batch.records) - new)
        newest_ms = max(order_of(entry_id)[0] for entry_id in batch.after.values())
        LAG_SECONDS.labels(self._source.name).set(max(0.0, time.time() - newest_ms / 1000))

    async def _publish(self, positions: Mapping[str, str]) -> None:
        """Tell the trimmer how far the books go. Behind the commit, so it never says too much."""
        if self._ledger_key is not None:
            words = [word for stream, entry_id in positions.items() for word in (stream.rpartition(":")[2], entry_id)]
            await self._checkpoint(keys=[self._ledger_key], args=words)


def is_poison(error: Exception) -> bool:
    """Whether the data is at fault, so that trying again would fail for ever."""
    if isinstance(error, asyncpg.PostgresError):
        return str(getattr(error, "sqlstate", "") or "")[:2] in POISON_CLASSES
    return isinstance(error, (ValueError, OverflowError, TypeError))
