"""The books: one transaction takes events, their projections and the checkpoint together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from uuid import UUID

import orjson

from services.ledger.chain import heads
from services.ledger.chain.link import chain_of, links, of_record
from services.ledger.intake import Letter, Record, Skip
from services.ledger.keyring import check_living, destroy
from services.ledger.projections.rows import fold
from services.ledger.sessions import Connection
from services.ledger.upsert import write
from services.ledger.webhooks.outbox import Outbox

_ABOUT = {
    "id": "uuid",
    "partition": "integer",
    "stream": "text",
    "entry_id": "text",
    "type": "text",
    "version": "integer",
    "time": "timestamptz",
    "tenant_id": "uuid",
    "user_id": "uuid",
    "subject": "text",
    "correlation_id": "text",
    "causation_id": "uuid",
}
"""Columns of an event, but for its body."""
# Bodies are long, and JSON within JSON would be longer; the rest travels as `upsert.rows_as_sent` does, and why.
_INSERT_EVENTS = (
    "WITH moved AS (UPDATE event_chains SET length = $5, head = $6 WHERE chain = $7) "
    f"INSERT INTO events ({', '.join(_ABOUT)}, body, chain_hash, chain_no) "
    f"SELECT {', '.join(_ABOUT)}, body, chain_hash, $4 + number FROM ROWS FROM (json_to_recordset($1::json) AS "
    f"({', '.join(f'{name} {kind}' for name, kind in _ABOUT.items())}), unnest($2::text[]), unnest($3::bytea[])) "
    f"WITH ORDINALITY AS new ({', '.join(_ABOUT)}, body, chain_hash, number) ON CONFLICT (id, time) DO NOTHING"
)
_about = attrgetter(*_ABOUT)
_LOCK_CHECKPOINTS = (
    "SELECT stream, entry_id FROM checkpoints WHERE stream = ANY ($1::text[]) ORDER BY stream FOR UPDATE"
)
_FIRST_CHECKPOINTS = (
    "INSERT INTO checkpoints (stream, entry_id) SELECT stream, '0-0' FROM unnest($1::text[]) AS new (stream) "
    "ON CONFLICT (stream) DO NOTHING"
)


class Overtaken(Exception):
    """Another worker has moved the checkpoint: what this one believes is out of date, and nothing was written."""


async def positions(connection: Connection, streams: Iterable[str]) -> dict[str, str]:
    """Up to where each stream is in the books."""
    found = dict.fromkeys(streams, "0-0")
    rows = await connection.fetch("SELECT stream, entry_id FROM checkpoints WHERE stream = ANY ($1)", list(found))
    return found | {row["stream"]: row["entry_id"] for row in rows}


async def commit(
    connection: Connection,
    before: Mapping[str, str],
    after: Mapping[str, str],
    records: Sequence[Record] = (),
    skips: Sequence[Skip] = (),
    letters: Sequence[Letter] = (),
    outbox: Outbox | None = None,
) -> int:
    """Take all of it in one transaction; how many events were new.

    Raises Overtaken, KeyDestroyed, or the driver's errors.

    An event whose id is in the books already is a duplicate: neither stored nor projected again.
    """
    async with connection.transaction():
        await _advance(connection, before, after)
        new = await take_in(connection, records)
        if outbox is not None:
            await outbox.add(connection, new)
        if skips:
            await _store_skips(connection, skips)
        if letters:
            await _store_letters(connection, letters)
    return len(new)


async def take_in(connection: Connection, records: Sequence[Record]) -> list[Record]:
    """Store and project, within the caller's transaction; those that were new. Raises KeyDestroyed, Overtaken."""
    await check_living(connection, records)
    new = await _append(connection, records)
    await destroy(connection, new)
    await write(connection, fold(patch for record in new for patch in record.patches))
    return new


async def _advance(connection: Connection, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Move the checkpoints, if they are where this worker left them. Their rows stay locked until the commit."""
    streams = sorted(after)
    rows = await connection.fetch(_LOCK_CHECKPOINTS, streams)
    if len(rows) < len(streams):
        await connection.execute(_FIRST_CHECKPOINTS, streams)
        rows = await connection.fetch(_LOCK_CHECKPOINTS, streams)
    for row in rows:
        if row["entry_id"] != before[row["stream"]]:
            raise Overtaken(f"{row['stream']} is at {row['entry_id']}, not at {before[row['stream']]}")
    await connection.execute(
        "UPDATE checkpoints AS old SET entry_id = new.entry_id, updated_at = now() "
        "FROM unnest($1::text[], $2::text[]) AS new (stream, entry_id) WHERE old.stream = new.stream",
        streams,
        [after[stream] for stream in streams],
    )


async def _append(connection: Connection, records: Sequence[Record]) -> list[Record]:
    """Store the events, each in its chain; those that were not in the books yet."""
    by_id: dict[UUID, Record] = {}
    for record in records:
        by_id.setdefault(record.id, record)
    new: list[Record] = []
    for chain, group in groupby(by_id.values(), key=lambda record: chain_of(record.partition)):
        new += await _append_to(connection, chain, list(group))
    return new


async def _append_to(connection: Connection, chain: int, records: Sequence[Record]) -> list[Record]:
    """Store events of one chain behind its end, which is locked: so there is one order of them."""
    head = await heads.lock(connection, chain, {record.id: record.time for record in records})
    new = [record for record in records if record.id not in head.known]
    if not new:
        return new
    hashes = links(head.hash, map(of_record, new))
    about = orjson.dumps([dict(zip(_ABOUT, _about(record), strict=True)) for record in new]).decode()
    bodies = [record.body for record in new]
    length = head.length + len(new)
    done = await connection.execute(_INSERT_EVENTS, about, bodies, hashes, head.length, length, hashes[-1], chain)
    if done != f"INSERT 0 {len(new)}":
        raise Overtaken(f"an event of chain {chain} came into the books by another way meanwhile")
    return new


async def _store_skips(connection: Connection, skips: Sequence[Skip]) -> None:
    await connection.executemany(
        "INSERT INTO skipped_entries (stream, entry_id, reason, type, data, dead_lettered) "
        "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (stream, entry_id) DO NOTHING",
        [(one.stream, one.entry_id, one.reason, one.type, one.data, one.reported) for one in skips],
    )


async def _store_letters(connection: Connection, letters: Sequence[Letter]) -> None:
    await connection.executemany(
        "INSERT INTO dead_letters (origin, entry_id, letter_id, reason, type, data, recorded_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (origin, entry_id) DO NOTHING",
        [(one.origin, one.entry_id, one.letter_id, one.reason, one.type, one.data, one.recorded_at) for one in letters],
    )
