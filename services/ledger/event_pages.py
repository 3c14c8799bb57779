"""Events of the books, page after page: the one place that knows where they lie, in the tables and in the archive. In
any order, unless it says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from msgspec import Struct

from services.ledger.archive import reading
from services.ledger.archive.parquet import Wanted
from services.ledger.archive.record import NOTHING, Archive, find_whole
from services.ledger.months import months_of
from services.ledger.sessions import Connection
from shared.control_state import order_of

PAGE = 2000
SPAN = 100_000

# What the index on `seq` (BRIN) does not know yet is read again for each span.
_SUMMARISE = """
SELECT brin_summarize_new_values(index.oid)
FROM pg_class AS index JOIN pg_am ON pg_am.oid = index.relam JOIN pg_index ON indexrelid = index.oid
WHERE amname = 'brin' AND index.relkind = 'i' AND (
  indrelid = 'public.events'::regclass OR indrelid IN (SELECT relid FROM pg_partition_tree('public.events')))
"""
_OF_SPAN = "SELECT body FROM events WHERE partition IS NOT NULL AND seq > $1 AND seq <= $2"
_OF_SHARE = """
SELECT seq, body FROM events WHERE partition IS NOT NULL AND ($1::text[] IS NULL OR type = ANY ($1)) AND {share}
"""
_OF_TYPES = "SELECT entry_id, body FROM events WHERE tenant_id = $1 AND type = ANY ($2) AND time >= $3"
_OF_OWNER = """
SELECT body FROM events WHERE partition IS NOT NULL AND tenant_id = $1 AND ($2::uuid IS NULL OR user_id = $2)
"""
# The server sorts keys, which are small; rows are fetched by page.
_KEYS_IN_ORDER = """
SELECT id, time FROM events WHERE partition = ANY ($1)
ORDER BY partition, split_part(entry_id, '-', 1)::bigint, split_part(entry_id, '-', 2)::bigint
"""
_BY_KEYS = """
SELECT e.partition, e.stream, e.entry_id, e.body
FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS k (id, time, number)
JOIN events AS e ON e.id = k.id AND e.time = k.time ORDER BY k.number
"""
_CAUSED_IN_ORDER = """
SELECT partition, entry_id, id, time, tenant_id, user_id, causation_id, type FROM events
WHERE partition = ANY ($1) AND stream = ANY ($2) AND type = ANY ($3) AND time < $4
ORDER BY partition, split_part(entry_id, '-', 1)::bigint, split_part(entry_id, '-', 2)::bigint
"""
# A cause is a little older, as a rule; its time is not known, and by the id alone each month is looked into.
_BY_IDS = "SELECT id, body FROM events WHERE id = ANY ($1)"
_NEAR = f"{_BY_IDS} AND time >= $2 AND time <= $3"
_NEARNESS = timedelta(days=2)
_CAUSED = ("partition", "entry_id", "id", "time", "tenant_id", "user_id", "causation_id", "type", "body")


Archived = Iterator[tuple[tuple[int, tuple[int, int]], Any]]
"""Rows of the archive, each behind its partition and its place in the log."""


@dataclass(frozen=True, slots=True)
class Span:
    """Events by their numbers: behind the first one, up to the last one. `archive`: the files that may have some."""

    after: int
    upto: int
    archive: Archive = NOTHING


@dataclass(frozen=True, slots=True)
class Share:
    """Everything of some tenants: what the `number`th of `of` readers reads. No row is of two tenants."""

    number: int = 0
    of: int = 1
    archive: Archive = NOTHING

    @property
    def condition(self) -> str:
        """SQL: whether a row's `tenant_id` is among them."""
        return "true" if self.of == 1 else f"abs(uuid_hash(tenant_id) % {self.of}) = {self.number}"


WHOLE = Share()


def spans(after: int, upto: int, size: int = SPAN, archive: Archive = NOTHING) -> list[Span]:
    """The numbers, in pieces that can be read apart from one another."""
    pieces = ((first, min(first + size, upto)) for first in range(after, upto, size))
    return [Span(first, last, archive.within(first, last)) for first, last in pieces]


async def prepare(connection: Connection) -> None:
    """So that a span is read without the others. As the owner."""
    await connection.execute(_SUMMARISE)


async def of_span(connection: Connection, span: Span) -> AsyncIterator[Sequence[str]]:
    """Pages of bodies of the partitions' events, within the caller's transaction."""
    async for page in _pages(connection, _OF_SPAN, span.after, span.upto):
        yield [row["body"] for row in page]
    for rows in reading.pages(span.archive, Wanted(("body",), after=span.after, upto=span.upto)):
        yield [row["body"] for row in rows]


async def of_share(
    connection: Connection, share: Share, types: Sequence[str] | None = None
) -> AsyncIterator[tuple[int, Sequence[str]]]:
    """Pages of bodies, of these types, each with the highest number so far. Events of one time are near each other."""
    seen = 0
    mine: dict[UUID, bool] = {}
    wanted = Wanted(("seq", "tenant_id", "body"), None if types is None else frozenset(types))
    for rows in reading.pages(share.archive, wanted):
        await _judge(connection, share, {row["tenant_id"] for row in rows} - mine.keys(), mine)
        seen = max(seen, rows[-1]["seq"])
        yield seen, [row["body"] for row in rows if mine[row["tenant_id"]]]
    async for page in _pages(connection, _OF_SHARE.format(share=share.condition), types):
        seen = max(seen, page[-1]["seq"])
        yield seen, [row["body"] for row in page]


async def _judge(connection: Connection, share: Share, tenants: Set[UUID], mine: dict[UUID, bool]) -> None:
    """Say of these tenants whether they are of the share, as the server says it."""
    if tenants:
        query = f"SELECT tenant_id, {share.condition} AS mine FROM unnest($1::uuid[]) AS one (tenant_id)"
        mine.update((row["tenant_id"], row["mine"]) for row in await connection.fetch(query, list(tenants)))


def archived_of(archive: Archive, owners: Collection[tuple[UUID, UUID | None]]) -> Iterator[Sequence[str]]:
    """Pages of bodies from the archive, of users or of whole tenants."""
    wanted = Wanted(("tenant_id", "user_id", "body"), tenants=frozenset(tenant for tenant, _ in owners))
    for rows in reading.pages(archive, wanted) if owners else ():
        yield [
            row["body"]
            for row in rows
            if (row["tenant_id"], row["user_id"]) in owners or (row["tenant_id"], None) in owners
        ]


async def of_owner(connection: Connection, tenant_id: UUID, user_id: UUID | None) -> AsyncIterator[Sequence[str]]:
    """Pages of bodies, of a user or of a whole tenant; those in the archive, of many owners at once: `archived_of`."""
    async for page in _pages(connection, _OF_OWNER, tenant_id, user_id):
        yield [row["body"] for row in page]


async def in_order(
    connection: Connection, partitions: Sequence[int], archive: Archive = NOTHING
) -> AsyncIterator[list[Any]]:
    """Pages of `partition`, `stream`, `entry_id` and `body`: partition by partition, in the order of the log."""

    async def from_tables() -> AsyncIterator[list[Any]]:
        async for keys in _pages(connection, _KEYS_IN_ORDER, partitions):
            yield await connection.fetch(_BY_KEYS, [row["id"] for row in keys], [row["time"] for row in keys])

    wanted = Wanted(("partition", "stream", "entry_id", "body"))
    async for page in _merged(from_tables(), reading.in_log_order(archive, partitions, wanted)):
        yield page


async def _merged(tables: AsyncIterator[list[Any]], archived: Archived) -> AsyncIterator[list[Any]]:
    """One order of both, which are each in it."""
    head, found = next(archived, None), list[Any]()
    async for page in tables:
        if head is None:
            yield page
            continue
        for row in page:
            while head is not None and head[0] <= (row["partition"], order_of(row["entry_id"])):
                found.append(head[1])
                head = next(archived, None)
                if len(found) == PAGE:
                    yield found
                    found = []
            found.append(row)
        yield found
        found = []
    while head is not None:
        found.append(head[1])
        head = next(archived, None)
        if len(found) == PAGE or head is None:
            yield found
            found = []


async def of_types(
    connection: Connection, tenant_id: UUID, types: Sequence[str], since: datetime, folder: Path | None
) -> AsyncIterator[Sequence[Any]]:
    """Pages of `entry_id` and `body`, of a tenant's events since then. `folder`: the archive's, which is wanted only
    where months since then are in it. Raises ArchiveProblem."""
    first = months_of([since])[0]
    if await connection.fetchval("SELECT EXISTS (SELECT FROM event_archives WHERE month >= $1)", first):
        archive = await find_whole(connection, folder)
        files = replace(archive, files=tuple(one for one in archive.files if one.month >= first))
        columns = ("entry_id", "body", "time")
        for rows in reading.pages(files, Wanted(columns, types=frozenset(types), tenants=frozenset([tenant_id]))):
            yield [row for row in rows if row["time"] >= since]
    async for page in _pages(connection, _OF_TYPES, tenant_id, types, since):
        yield page


class Caused(Struct, frozen=True):
    """An event and its cause; bodies that nobody asked for, or that are not in the books, are None."""

    partition: int
    type: str
    time: datetime
    tenant_id: UUID | None
    user_id: UUID | None
    causation_id: UUID | None
    body: str | None
    cause: str | None


async def with_causes(
    connection: Connection,
    streams: Mapping[int, str],
    until: datetime,
    wanted: Mapping[str, tuple[bool, bool]],
    archive: Archive = NOTHING,
) -> AsyncIterator[list[Caused]]:
    """Pages of a stream of each partition, in the order of the log.

    `wanted`: the types, and of each whether the body of such an event is wanted, and whether its cause's is.
    """
    arguments = (list(streams), list(streams.values()), list(wanted), until)
    of_files = Wanted(_CAUSED, types=frozenset(wanted), streams=frozenset(streams.values()))
    archived = (one for one in reading.in_log_order(archive, streams, of_files) if one[1]["time"] < until)
    async for rows in _merged(_pages(connection, _CAUSED_IN_ORDER, *arguments), archived):
        ids: set[UUID] = set()
        known: dict[UUID, str] = {}
        for row in rows:
            itself, its_cause = wanted[row["type"]]
            if itself:
                if (said := row.get("body")) is None:
                    ids.add(row["id"])
                else:
                    known[row["id"]] = said
            if its_cause and row["causation_id"] is not None:
                ids.add(row["causation_id"])
        known.update(await _bodies(connection, ids, [row["time"] for row in rows], archive.of(streams)))
        yield [_caused(row, known, *wanted[row["type"]]) for row in rows]


def _caused(row: Any, bodies: Mapping[UUID, str], itself: bool, its_cause: bool) -> Caused:
    said = bodies.get(row["id"]) if itself else None
    cause_id = row["causation_id"]
    cause = bodies.get(cause_id) if its_cause and cause_id is not None else None
    return Caused(row["partition"], row["type"], row["time"], row["tenant_id"], row["user_id"], cause_id, said, cause)


async def _bodies(
    connection: Connection, ids: Set[UUID], times: Sequence[datetime], archive: Archive
) -> dict[UUID, str]:
    """First where they are, as a rule; then everywhere."""
    first, last = min(times) - _NEARNESS, max(times)
    near = await connection.fetch(_NEAR, list(ids), first, last)
    found: dict[UUID, str] = {row["id"]: row["body"] for row in near}
    months = [one.month for one in archive.files if months_of([first])[0] <= one.month <= last.date()]
    for where in (months, None):
        if missing := ids - found.keys():
            found |= reading.by_ids(archive, missing, where)
        if where is not None and (missing := ids - found.keys()):
            found.update((row["id"], row["body"]) for row in await connection.fetch(_BY_IDS, list(missing)))
    return found


async def of_control(connection: Connection) -> list[tuple[str, str]]:
    """All orders: entry id and body. There are few: an order is a person's act."""
    rows = await connection.fetch("SELECT entry_id, body FROM events WHERE partition IS NULL")
    return [(row["entry_id"], row["body"]) for row in rows]


async def _pages(connection: Connection, query: str, *arguments: Any) -> AsyncIterator[list[Any]]:
    cursor = await connection.cursor(query, *arguments)
    while page := await cursor.fetch(PAGE):
        yield page
