"""The one writer of `provider_breaker.changed`: under a lease it reads the outcomes of all partitions, and publishes.

    read a page of outcomes, look at the control stream --> decide --> one atomic step under the fencing token:
    changes onto the control stream, windows and places beside it (they share its hash slot)

A crash before the step leaves nothing: the page is read again. After it, everything. A paused writer's step is refused.
Without a change the step is made once a second, so a restart counts again what came since.
"""

from __future__ import annotations

import asyncio

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.policy.provider_breakers.config import BreakerConfig
from services.policy.provider_breakers.desk import Desk, decode, encode, next_due_ms
from services.policy.provider_breakers.reading import call_of
from shared.clock import Clock
from shared.control_state import order_of
from shared.events.control import ProviderBreakerChanged
from shared.partitions import CONTROL, PROVIDER_BREAKERS, PROVIDER_BREAKERS_LEASE
from shared.provider_breakers import Model
from shared.settings import Settings
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from shared.streams.lease import Command, Fenced, Lease
from shared.streams.read import BLOCK_MS
from shared.streams.wide_reader import WideReader

# Outcomes are gathered for so long: a breaker that opens 20 ms later costs less than a reading for each of them.
GATHER_S = 0.02
STORE_MS = 1000
PAGE = 1000
RETRY_S = 0.1

log = structlog.get_logger(__name__)


class BreakerWriter:
    """Wants the lease, and decides the breakers of all models while it has it."""

    def __init__(self, redis: Redis, owner: str, clock: Clock, partitions: Partitions, settings: Settings) -> None:
        self._redis = redis
        self._clock = clock
        self._partitions = partitions
        self._settings = settings
        self._config = BreakerConfig.from_settings(settings)
        self._lease = Lease(redis, PROVIDER_BREAKERS_LEASE, owner, settings.lease_ttl_ms)
        self._control = ControlReader(redis, settings.control_staleness_ms)
        self._desk = Desk(self._config)
        self._positions: dict[str, str] = {}
        self._moved = False
        self._stored_ms = 0
        self.token = 0
        self.problem: str | None = None

    async def run(self) -> None:
        """Lead whenever the lease can be had, until cancelled."""
        while True:
            try:
                self.token = await self._lease.take()
                self.problem = None
                if self.token:
                    log.info("leads the breakers of models", token=self.token)
                    await self._lead()
            except Fenced:
                log.warning("fenced off: another process decides the breakers of models")
            except RedisError as error:
                self.problem = f"the log cannot be reached: {error}"
                log.warning("lost the log", error=str(error))
                await asyncio.sleep(RETRY_S)
            self.token = 0
            await asyncio.sleep(self._settings.lease_ttl_ms / 4000)

    async def stop(self) -> None:
        """Give the lease back, so that the next one need not wait for its end."""
        await self._lease.give_back()

    async def _lead(self) -> None:
        """Take turns while the lease is renewed. Ends by Fenced or RedisError."""
        await self._load()
        renewal = asyncio.create_task(self._renew())
        try:
            async with WideReader(self._redis) as reader:
                while not renewal.done():
                    await self._take_turn(reader)
        finally:
            renewal.cancel()
        await renewal

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_ttl_ms / 4000)
            if await self._lease.renew() != self.token:
                raise Fenced("the lease went to another process")

    async def _load(self) -> None:
        """Take over what the last step left. What ended before the window began is passed over."""
        stored = await self._redis.hgetall(PROVIDER_BREAKERS)
        windows = {_model(key): decode(value) for key, value in stored.items() if key.startswith(b"[")}
        self._desk = Desk(self._config, windows)
        oldest = f"{max(0, self._clock.now_ms() - self._config.window_ms)}-0"
        streams = (partition.outcomes for partition in self._partitions.all)
        self._positions = {
            stream: max(stored.get(stream.encode(), b"0-0").decode(), oldest, key=order_of) for stream in streams
        }
        self._moved, self._stored_ms = False, self._clock.now_ms()

    async def _take_turn(self, reader: WideReader) -> None:
        """Read, decide, commit."""
        # Of a partition that came since: all that it has.
        self._positions = {one.outcomes: "0-0" for one in self._partitions.all} | self._positions
        pages = await reader.read(self._positions, self._settings.batch_size, self._patience_ms())
        # After the outcomes, so that an operator's reset is known before what came behind it.
        await self._control.catch_up()
        calls = [
            call
            for page in pages.values()
            for entry_id, fields in page
            if (call := call_of(entry_id, fields, self._config)) is not None
        ]
        calls.sort(key=lambda call: call.ended_ms)  # across partitions; within one that is their order
        now_ms = self._clock.now_ms()
        changes = self._desk.take(calls, self._control.state.provider_breakers, now_ms)
        self._positions |= {stream: page[-1][0].decode() for stream, page in pages.items()}
        self._moved = self._moved or bool(pages)
        if changes or (self._moved and now_ms >= self._stored_ms + STORE_MS):
            await self._commit(changes, now_ms)
        if pages and max(map(len, pages.values())) < self._settings.batch_size:
            await asyncio.sleep(GATHER_S)

    def _patience_ms(self) -> int:
        due_ms = next_due_ms(self._control.state.provider_breakers, self._config)
        return BLOCK_MS if due_ms is None else max(1, min(BLOCK_MS, due_ms - self._clock.now_ms()))

    async def _commit(self, changes: list[ProviderBreakerChanged], now_ms: int) -> None:
        gone = self._desk.forget_quiet(self._control.state.provider_breakers, now_ms)
        batch: list[Command] = []
        stored = [word for stream, place in self._positions.items() for word in (stream, place)]
        for model in self._desk.touched:
            if (watched := self._desk.windows.get(model)) is not None:
                stored += [_field(model), encode(watched).decode()]
            else:
                gone.append(model)
        batch.append(("HSET", PROVIDER_BREAKERS, *stored))
        for at in range(0, len(gone), PAGE):
            batch.append(("HDEL", PROVIDER_BREAKERS, *(_field(model) for model in gone[at : at + PAGE])))
        for change in changes:
            data = change.model_dump_json(exclude_none=True)
            batch.append(("XADD", CONTROL, "*", "data", data))
        await self._lease.commit(self.token, batch, [PROVIDER_BREAKERS, CONTROL])
        self._desk.touched.clear()
        self._moved, self._stored_ms = False, now_ms
        for change in changes:
            log.warning("a model's breaker changed", **change.model_dump(mode="json", include=_SAID))
        if changes:
            await self._control.catch_up()  # from here on the breakers are what was published


_SAID = {"provider", "model", "state", "reason", "version"}


def _field(model: Model) -> str:
    return orjson.dumps(model).decode()


def _model(key: bytes) -> Model:
    provider, name = orjson.loads(key)
    return provider, name
