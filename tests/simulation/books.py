"""The simulated log as the ledger's books would have it, under the history checker that production logs are put to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from services.ledger.history.checker import HistoryChecker
from services.ledger.history.entry import Entry, Finding, Stream
from services.ledger.history.orders import Orders
from shared.events.control import parse_control
from shared.events.registry import EVENTS
from tests.simulation.world import STALENESS_MS, World


def findings(world: World) -> list[Finding]:
    """What the checker finds when everything has come to rest."""
    orders = Orders((entry_id, parse_control(data)) for entry_id, data in world.log.control)
    return list(HistoryChecker(orders, stop_bound_ms=STALENESS_MS).check(entries(world)))


def entries(world: World) -> Iterator[Entry]:
    """Sorted by place. Places count by stream, as a server's do: within a millisecond streams have no order."""
    found = [entry for stream in get_args(Stream) for entry in _stream(world, stream)]
    seen: set[Any] = set()
    for entry in sorted(found, key=lambda entry: entry.place):
        if entry.event.id not in seen:  # the books have each event once
            seen.add(entry.event.id)
            yield entry


def _stream(world: World, stream: Stream) -> Iterator[Entry]:
    for number, entry in enumerate(world.log.streams[stream]):
        yield Entry(stream, (entry.at_ms, number), EVENTS.decode(entry.data))
