"""Checks that hold events against other events: asked of the database, which joins them; where some are in an archive,
of a temporary database of SQLite, which takes in the few columns that it needs, and sorts on the disk."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from services.ledger.archive import reading
from services.ledger.archive.parquet import Wanted
from services.ledger.archive.record import Archive
from services.ledger.sessions import Connection
from shared.control_state import order_of

PAGE = 5000
ENDS = ("task.succeeded", "task.blocked", "task.failed")

Found = tuple[str, str]

_ONE_END = f"""
SELECT subject, count(*) || ' ends: ' || string_agg(type, ', ' ORDER BY seq) FROM events
WHERE type IN {ENDS}
GROUP BY tenant_id, subject HAVING count(*) > 1
"""
# Only attempts up to where the decisions are in the books: those of another stream may be ahead for a moment.
_ALLOWED_BEFORE = """
SELECT a.subject, 'attempt ' || a.id || ' has no earlier allow' FROM events AS a
JOIN checkpoints AS c ON c.stream = replace(a.stream, ':outcomes', ':decisions')
  AND split_part(a.entry_id, '-', 1)::bigint <= split_part(c.entry_id, '-', 1)::bigint
WHERE a.type = 'attempt.started' AND NOT EXISTS (
  SELECT FROM events AS d
  WHERE d.id = substring(a.body FROM '"decision_id":"([0-9a-f-]{36})"')::uuid
    AND d.type = 'task.allowed' AND d.subject = a.subject
    AND split_part(d.entry_id, '-', 1)::bigint <= split_part(a.entry_id, '-', 1)::bigint)
"""
_DECISION = re.compile('"decision_id":"([0-9a-f-]{36})"')


async def one_end(connection: Connection, archive: Archive) -> list[Found]:
    """Tasks that end twice, with their ends."""
    if not archive.files:
        return await ask(connection, _ONE_END)
    with _beside("ends (tenant, subject, type, seq)") as take:
        async for page in _both(connection, archive, ENDS, ("tenant_id", "subject", "type", "seq")):
            take("ends", [(str(row["tenant_id"]), row["subject"], row["type"], row["seq"]) for row in page])
        return take.found(
            "SELECT subject, count(*) || ' ends: ' || group_concat(type, ', ') "
            "FROM (SELECT * FROM ends ORDER BY tenant, subject, seq) GROUP BY tenant, subject HAVING count(*) > 1"
        )


async def allowed_before(connection: Connection, archive: Archive) -> list[Found]:
    """Attempts without an allow of before."""
    if not archive.files:
        return await ask(connection, _ALLOWED_BEFORE)
    checkpoints = await connection.fetch("SELECT stream, entry_id FROM checkpoints")
    upto = {row["stream"].replace(":decisions", ":outcomes"): order_of(row["entry_id"])[0] for row in checkpoints}
    columns = ("id", "subject", "stream", "entry_id", "body")
    with _beside("attempts (subject, id, decision, ms)", "allows (id, subject, ms)") as take:
        async for page in _both(connection, archive, ["attempt.started"], columns):
            places = [(row, order_of(row["entry_id"])[0], _DECISION.search(row["body"])) for row in page]
            take(
                "attempts",
                [
                    (row["subject"], str(row["id"]), decision and decision[1], ms)
                    for row, ms, decision in places
                    if ms <= upto.get(row["stream"], -1)
                ],
            )
        async for page in _both(connection, archive, ["task.allowed"], columns[:-1]):
            take("allows", [(str(row["id"]), row["subject"], order_of(row["entry_id"])[0]) for row in page])
        return take.found(
            "SELECT subject, 'attempt ' || id || ' has no earlier allow' FROM attempts AS a WHERE NOT EXISTS ("
            "SELECT 1 FROM allows AS d WHERE d.id = a.decision AND d.subject = a.subject AND d.ms <= a.ms)",
            "CREATE INDEX allows_by_id ON allows (id)",
        )


async def ask(connection: Connection, sql: str) -> list[Found]:
    """What a question finds."""
    return [(str(row[0]), str(row[1])) for row in await connection.fetch(sql)]


async def _both(
    connection: Connection, archive: Archive, types: Sequence[str], columns: tuple[str, ...]
) -> AsyncIterator[Sequence[Any]]:
    """Pages of the events of these types, wherever they are."""
    cursor = await connection.cursor(f"SELECT {', '.join(columns)} FROM events WHERE type = ANY ($1)", list(types))
    while page := await cursor.fetch(PAGE):
        yield page
    for rows in reading.pages(archive, Wanted(columns, types=frozenset(types))):
        yield rows


class _Beside:
    """Tables in a file without a name, which is gone with it."""

    def __init__(self, tables: Sequence[str]) -> None:
        self.database = sqlite3.connect("")
        for table in tables:
            self.database.execute(f"CREATE TABLE {table}")

    def __call__(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take rows in."""
        if rows:
            self.database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)

    def found(self, question: str, *first: str) -> list[Found]:
        """What a question finds."""
        for statement in first:
            self.database.execute(statement)
        return self.database.execute(question).fetchall()


@contextmanager
def _beside(*tables: str) -> Iterator[_Beside]:
    made = _Beside(tables)
    try:
        yield made
    finally:
        made.database.close()
