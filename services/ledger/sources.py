"""What a writer reads: a partition's three streams, the control stream, or the dead letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.ledger.chain.link import CONTROL_CHAIN, chain_of
from services.ledger.intake import (
    Keys,
    Letter,
    OpenEvent,
    Owner,
    Record,
    Skip,
    as_record,
    open_event,
    read_letter,
    read_order,
)
from services.ledger.sessions import Connection
from shared.control_state import ControlState, evolve, order_of
from shared.events.control import parse_control
from shared.partitions import CONTROL, DEAD_LETTERS, Partition
from shared.streams.read import Entry

Page = Mapping[str, list[Entry]]


@dataclass(slots=True)
class Batch:
    """What came of some entries, and where each stream is after them."""

    after: dict[str, str] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)


@dataclass(slots=True)
class Opened:
    """A page; the events that its entries are, where they are events; and whose data keys reading them takes."""

    page: Page
    events: Mapping[str, list[OpenEvent | Skip]] = field(default_factory=dict)
    owners: Collection[Owner] = ()


class Source(Protocol):
    """Streams that one writer takes into the books, in their order."""

    @property
    def name(self) -> str:
        """For logs and readiness."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def chain(self) -> int | None:
        """The chain that its events are in; None: it has none."""

    @property
    def policy(self) -> str | None:
        """The key of policy's state beside these streams, where there is one."""

    @property
    def goes_on(self) -> tuple[str, ...]:
        """Those of the streams that must go on where the books end (`continuity.py`)."""

    async def load(self, connection: Connection, positions: Mapping[str, str]) -> None:
        """Take over the state that reading needs, as of these positions."""

    def open(self, page: Page) -> Opened:
        """Decode."""

    def read(self, opened: Opened) -> Batch:
        """Project; the same again gives the same. The owners' data keys are to be at hand."""

    def advance(self, batch: Batch) -> None:
        """The batch is in the books."""


class PartitionSource:
    """A partition's tasks, decisions and outcomes."""

    def __init__(self, partition: Partition, keys: Keys | None = None) -> None:
        self._partition = partition
        self._keys = keys
        self.name = f"partition {partition.number}"
        self.chain = chain_of(partition.number)
        self.policy = partition.policy
        self.streams = self.goes_on = (partition.tasks, partition.decisions, partition.outcomes)

    async def load(self, connection: Connection, positions: Mapping[str, str]) -> None:
        """Events carry all that their projections need."""

    def open(self, page: Page) -> Opened:
        events = {stream: [open_event(stream, entry) for entry in entries] for stream, entries in page.items()}
        if self._keys is None or not self._keys.encrypts:
            return Opened(page, events)
        opened = (one for of_stream in events.values() for one in of_stream if isinstance(one, OpenEvent))
        return Opened(page, events, {one.owner for one in opened if one.owner is not None})

    def read(self, opened: Opened) -> Batch:
        batch, number = Batch(), self._partition.number
        for stream, entries in opened.page.items():
            for entry, one in zip(entries, opened.events[stream], strict=True):
                found = one if isinstance(one, Skip) else as_record(number, stream, entry, one, self._keys)
                if isinstance(found, Skip):
                    batch.skips.append(found)
                else:
                    batch.records.append(found)
            batch.after[stream] = entries[-1][0].decode()
        return batch

    def advance(self, batch: Batch) -> None:
        """Nothing is remembered from one batch to the next."""


class ControlSource:
    """Operators' orders."""

    name = "control"
    streams = goes_on = (CONTROL,)
    chain = CONTROL_CHAIN
    policy = None

    def __init__(self) -> None:
        self._state = ControlState()
        self._next = self._state

    async def load(self, connection: Connection, positions: Mapping[str, str]) -> None:
        """Fold the orders that are in the books. There are few: an order is a person's act."""
        self._state = self._next = await orders_so_far(connection)

    def open(self, page: Page) -> Opened:
        return Opened(page)

    def read(self, opened: Opened) -> Batch:
        batch = Batch()
        state = self._state
        for entry in opened.page.get(CONTROL, []):
            found, state = read_order(state, entry)
            if isinstance(found, Skip):
                batch.skips.append(found)
            else:
                batch.records.append(found)
            batch.after[CONTROL] = entry[0].decode()
        self._next = state
        return batch

    def advance(self, batch: Batch) -> None:
        self._state = self._next


class LetterSource:
    """The dead letters."""

    name = "dead letters"
    streams = (DEAD_LETTERS,)
    goes_on = ()
    chain = None
    policy = None

    async def load(self, connection: Connection, positions: Mapping[str, str]) -> None:
        """Each letter stands for itself."""

    def open(self, page: Page) -> Opened:
        return Opened(page)

    def read(self, opened: Opened) -> Batch:
        letters = opened.page.get(DEAD_LETTERS, [])
        return Batch(
            after={DEAD_LETTERS: letters[-1][0].decode()} if letters else {},
            letters=[read_letter(entry) for entry in letters],
        )

    def advance(self, batch: Batch) -> None:
        """Nothing is remembered from one batch to the next."""


async def orders_so_far(connection: Connection) -> ControlState:
    """The fold of the orders that are in the books."""
    rows = await connection.fetch("SELECT entry_id, body FROM events WHERE partition IS NULL")
    state = ControlState()
    for entry_id, body in sorted(((row["entry_id"], row["body"]) for row in rows), key=lambda row: order_of(row[0])):
        state = evolve(state, entry_id, parse_control(body))
    return state
