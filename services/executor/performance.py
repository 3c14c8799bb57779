"""One delivered decision, from its arrival to its end."""

from __future__ import annotations

from dataclasses import replace

import structlog
from redis.exceptions import RedisError

from services.executor import ends
from services.executor.attempts import Attempts, Ended
from services.executor.cache import Cache, answered
from services.executor.delivery import Delivery
from services.executor.execution import Expired, Lost, Over, Stop, before
from services.executor.journal import Journal
from services.executor.metrics import ENDS
from services.executor.room import Place
from services.executor.single_flight import SingleFlight, flight_key
from shared.clock import Clock
from shared.events.envelope import Payload
from shared.events.outcomes import TaskFailed, TaskSucceeded
from shared.settings import Settings
from shared.streams.control_reader import ControlReader

log = structlog.get_logger(__name__)


class Performer:
    """Performs deliveries: checks, cache, attempts, end."""

    def __init__(
        self,
        executor: str,
        journal: Journal,
        attempts: Attempts,
        control: ControlReader,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._executor = executor
        self._journal = journal
        self._attempts = attempts
        self._control = control
        self._clock = clock
        self._cache = Cache(journal.pipeline)
        self._flights = SingleFlight(journal.pipeline)
        self._max_attempts = settings.max_attempts
        self.pipeline = journal.pipeline

    async def perform(self, delivery: Delivery, place: Place) -> None:
        """Bring the delivery to its end. Raises RedisError where the log refuses; it is then delivered again."""
        try:
            await self._perform(delivery, place)
        except RedisError:
            raise
        except Exception as error:  # a poison decision stops nobody, and its task still ends
            log.error("could not perform", exc_info=error)
            record = await self._journal.look(delivery)
            mine = record.state == "attempting" and record.owner == self._executor
            asked = delivery.calling(record.model) if mine else delivery
            await self._finish(asked, self._executor if mine else "", ends.broken(asked, error, attempted=mine))

    async def _perform(self, delivery: Delivery, place: Place) -> None:
        if delivery.redelivered and not await self._is_untouched(delivery):
            return
        refused = self._attempts.permission(delivery)
        if isinstance(refused, Stop | Expired):
            await self._finish(delivery, "", self._attempts.refusal(delivery, refused))
        elif delivery.allowed.task.cache_key is None:
            await self._call_for(delivery, None)
        else:
            await self._from_cache(delivery, place)

    async def _is_untouched(self, delivery: Delivery) -> bool:
        """True if nobody began this decision's call. If somebody did who is gone, the task ends, or is decided anew."""
        record = await self._journal.look(delivery)
        match before(delivery, record, self._max_attempts):
            case Over():
                await self._journal.acknowledge(delivery)
                return False
            case Lost(owner, again):
                asked = delivery.calling(record.model)
                end = ends.expired(asked, lost=True) if again else ends.uncertain(asked, owner)
                flight = flight_key(delivery) if delivery.allowed.task.cache_key else None  # perhaps it led one
                await self._finish(asked, owner, end, flight)
                return False
            case _:
                return True

    async def _from_cache(self, delivery: Delivery, place: Place) -> None:
        """Answer from the cache; else make the call, or wait for the identical one that is being made."""
        epoch = self._control.state.cache_epoch(delivery.tenant_id, delivery.user_id)
        delivery = replace(delivery, cache_epoch=epoch)
        while True:
            answer = await self._cache.lookup(delivery)
            refused = self._attempts.permission(delivery)  # a cached answer is not served past a stop, either
            if isinstance(refused, Stop | Expired):
                await self._finish(delivery, "", self._attempts.refusal(delivery, refused))
                return
            if answer is not None:
                await self._finish(delivery, "", answer)
                return
            if delivery.allowed.cache_only:
                await self._call_for(delivery, None)
                return
            if (flight := await self._flights.lead(delivery)) is not None:
                try:
                    # The leader before may have landed between our look and our start.
                    if (answer := await self._cache.lookup(delivery)) is not None:
                        await self._finish(delivery, "", answer, flight)
                    else:
                        await self._call_for(delivery, flight)
                finally:
                    self._flights.landed(flight)
                return
            async with place.stepped_aside():
                await self._flights.wait(delivery)

    async def _call_for(self, delivery: Delivery, flight: str | None) -> None:
        """Ask the provider, and end."""
        refused = self._attempts.without_answer(delivery)
        if isinstance(refused, Stop):
            await self._finish(delivery, "", self._attempts.refusal(delivery, refused), flight)
            return
        try:
            made = await self._attempts.make(delivery)
            if isinstance(made, Ended):
                await self._finish(made.delivery, self._executor, made.end, flight, attempt_no=made.number)
            # Else another executor has this decision, and ends it.
        finally:
            self._attempts.written(delivery)

    async def _finish(
        self, delivery: Delivery, owner: str, end: Payload, flight: str | None = None, attempt_no: int = 1
    ) -> None:
        """End the delivery; where another executor has ended it already, say at least what this one's call cost."""
        cache = answered(delivery.allowed, end) if isinstance(end, TaskSucceeded) else None
        event = delivery.follow(end, self._clock.now_ms())
        verdict = await self._journal.finish(delivery, owner, event, flight=flight, cache=cache)
        if verdict.said == "done":
            ENDS.labels(event.type).inc()
        elif owner == self._executor:
            log.warning("too late: another executor ended it", said=verdict.said, who=verdict.who)
            await self._tell_cost(delivery, attempt_no, end)

    async def _tell_cost(self, delivery: Delivery, attempt_no: int, end: Payload) -> None:
        if isinstance(end, TaskSucceeded):
            await self._attempts.resolve(delivery, attempt_no, end.usage, end.usage.latency_ms)
        elif isinstance(end, TaskFailed):
            if end.spend != "uncertain":
                spent = end.usage if end.spend == "certain" else None
                await self._attempts.resolve(delivery, attempt_no, spent, end.usage.latency_ms)
        else:  # the call was not made
            await self._attempts.resolve(delivery, attempt_no, None, 0)
