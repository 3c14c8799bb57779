"""The ledger service: writes the books, trims the log behind them, and answers who may read."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from functools import partial

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.ledger import api, sessions
from services.ledger.archive.retention import Overdue
from services.ledger.chain.seal import read_private
from services.ledger.console.logins import Logins
from services.ledger.console.orders import Orders
from services.ledger.console.routes import Console
from services.ledger.keyring import Keyring
from services.ledger.keys import Doorkeeper
from services.ledger.measures import Measures
from services.ledger.metrics import LEADS
from services.ledger.months import MonthsAhead
from services.ledger.overview import Overview
from services.ledger.replica import Replica
from services.ledger.reports import Reporter
from services.ledger.sources import ControlSource, LetterSource, PartitionSource, Source
from services.ledger.trim import Trimmer
from services.ledger.webhooks.outbox import Outbox
from services.ledger.webhooks.sender import Sender
from services.ledger.writer import Writer
from shared.clock import ServerClock
from shared.partitions import Partition
from shared.service import Worker, health_routes, run
from shared.settings import Settings
from shared.streams.connection import connect
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from shared.streams.spread import Spread
from shared.texts.master_key import MasterKeys, read_master_keys
from shared.token_keys import token_keys

READERS = 8
SENDERS = 4


async def serve(settings: Settings) -> None:
    """Write and answer until stopped."""
    assert settings.redis_url is not None and settings.database_url is not None, "the command line checks that"
    masters = read_master_keys(settings.master_key_file, settings.master_key_command)
    owner = f"ledger-{os.getpid()}-{secrets.token_hex(4)}"
    redis = connect(settings.redis_url, client_name=owner, min_replicas=settings.min_replicas)
    clock = ServerClock()
    control = ControlReader(redis, settings.control_staleness_ms)
    pooler, read_url = settings.database_pooler, settings.database_read_url or settings.database_url
    async with (
        sessions.pool(settings.database_url, name=owner, size=settings.partitions + 4, pooler=pooler) as writing,
        sessions.pool(read_url, name=f"{owner}-reads", size=READERS, pooler=pooler) as readers,
        sessions.pool(settings.database_url, name=f"{owner}-webhooks", size=SENDERS, pooler=pooler) as sending,
    ):
        replica = Replica(readers, writing) if settings.database_read_url else None
        reading = replica or readers
        outbox = Outbox(control, settings.webhook_max_waiting)
        partitions = Partitions(settings.partitions)
        partitions.listen(control)
        writers = Writers(writing, redis, owner, settings, outbox, masters)
        for one in partitions.all:
            writers.of(one)
        trimmer, reporter = Trimmer(redis, writing, clock, partitions, settings), Reporter(writing, redis)

        def readiness() -> dict[str, str | None]:
            checks = {name: writer.problem for name, writer in writers.by_name.items()}
            keys = "the control stream cannot be read" if control.is_stale else None
            read = {} if replica is None else {"replica": replica.problem}
            return {"keys": keys, "database": reporter.problem, **read, **checks}

        LEADS.set_function(lambda: sum(1 for writer in writers.by_name.values() if writer.token))
        tokens = token_keys(settings)
        door = Doorkeeper(control, clock, tokens)
        overview = Overview(reading, redis, control, clock, partitions)
        console = Console(reading, door, overview, Logins(clock), Orders(settings.gateway_url))
        app = api.build(reading, door, health_routes(readiness), overview, masters)
        console.attach(app)
        workers: list[Worker] = [clock.first(control.follow), partial(clock.follow, redis), reporter.run]
        workers.append(MonthsAhead(writing).run)
        workers += [clock.first(trimmer.run), Sender(sending, control, outbox, settings).run, console.run]
        workers += [writer.run for writer in writers.others]
        workers += [partial(partitions.follow, redis), partial(partitions.each, lambda one: writers.of(one).run())]
        workers.append(clock.first(Measures(reading, redis, control, clock, partitions).run))
        if replica is not None:
            workers.append(replica.run)
        if tokens is not None:
            workers.append(tokens.follow)
        if settings.archive_after_months is not None:
            workers.append(Overdue(writing, settings.archive_after_months).run)
        try:
            await run("ledger", app, settings.ledger_host, settings.ledger_port, workers, settings)
        finally:
            with suppress(RedisError, TimeoutError):
                await asyncio.gather(*(writer.stop() for writer in writers.by_name.values()))
            await redis.aclose()


class Writers:
    """A writer for each partition, one for the orders, one for the dead letters."""

    def __init__(
        self,
        pool: sessions.Pool,
        redis: Redis,
        owner: str,
        settings: Settings,
        outbox: Outbox | None = None,
        masters: MasterKeys | None = None,
    ) -> None:
        """Raises UnusableKey, OSError."""
        self._shared = (pool, redis)
        self._rest = (owner, settings)
        self._outbox = outbox
        self._seal_key = None if settings.seal_key_file is None else read_private(settings.seal_key_file)
        self._keyring = Keyring(masters)
        self.by_name: dict[str, Writer] = {}
        self._of_partitions: list[Writer] = []
        self._spread = Spread(lambda: sum(1 for one in self._of_partitions if one.token), settings.lease_ttl_ms / 1000)
        # The braces put the name under the same pattern as a partition's keys: what the ledger's user may touch.
        self.others = [
            self._make(one, f"{{skeldir:{one.name.replace(' ', '-')}}}:lease:ledger", None, None)
            for one in (ControlSource(), LetterSource())
        ]

    def of(self, partition: Partition) -> Writer:
        """The writer of a partition: always the same."""
        source = PartitionSource(partition, self._keyring)
        if source.name in self.by_name:
            return self.by_name[source.name]
        made = self._make(source, partition.lease("ledger"), partition.ledger, self._keyring, self._spread)
        self._of_partitions.append(made)
        return made

    def _make(
        self, source: Source, lease: str, ledger_key: str | None, keyring: Keyring | None, spread: Spread | None = None
    ) -> Writer:
        made = Writer(
            *self._shared, source, lease, *self._rest, ledger_key, self._outbox, self._seal_key, keyring, spread
        )
        return self.by_name.setdefault(source.name, made)
