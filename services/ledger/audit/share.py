"""The chains that one process walks: their rows, page by page of the table, on a snapshot that others see, too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple

import asyncpg

from services.ledger.archive.reading import ByNumber
from services.ledger.archive.record import NOTHING, Archive
from services.ledger.audit.order import WINDOW
from services.ledger.audit.strand import End, Mark, Strand
from services.ledger.chain.link import COLUMNS, chain_of
from services.ledger.chain.seal import Seal, from_pem, key_id
from services.ledger.chain.walk import Broken, Signed
from services.ledger.sessions import Connection, write_as_ledger

PAGE = 5000
MAX_FINDINGS = 1000
TIMEOUT_S = 24 * 3600.0

_MINE = "(coalesce(partition, -1) = ANY ($1)) = $2"
_COLUMNS = f"{', '.join(COLUMNS)}, chain_no, chain_hash, seq"
_PAGE = f"SELECT {_COLUMNS} FROM events WHERE {_MINE} AND seq > $3 AND seq <= $4"
_STRAYS = f"SELECT {_COLUMNS} FROM events WHERE {_MINE} AND (seq <= 0 OR seq > $3)"
# By their key, chain after chain, however many there are.
_SEALS = """
SELECT s.* FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS span (chain, after, upto)
CROSS JOIN LATERAL (
  SELECT * FROM event_seals AS one WHERE one.chain = span.chain AND length > span.after AND length <= span.upto OFFSET 0
) AS s ORDER BY sealed_at
"""
_BEYOND = """
SELECT * FROM event_seals WHERE chain = $1 AND length > $2
ORDER BY length DESC, key_id = ANY ($3) DESC, sealed_at DESC LIMIT 1
"""

Found = tuple[int, Broken]
"""Of which chain, and what."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does. `upto`: the last number that the table has given.

    `others`: the rows of every chain but these are walked, also of chains that the books do not know; None: those of
    its `ends` only.
    """

    database_url: str
    snapshot: str
    upto: int
    ends: Mapping[int, End]
    others: tuple[int, ...] | None
    marks: Mapping[int, Mark]
    keys: tuple[bytes, ...]
    archive: Archive = NOTHING

    def left(self, chain: int) -> int:
        """How many rows of a chain are to walk, about."""
        end, mark = self.ends[chain], self.marks.get(chain)
        return max(0, end.length + end.unchained - (0 if mark is None else mark.rows))

    def part(self, chains: Collection[int]) -> Share:
        """Of these chains only."""
        ends = {chain: self.ends[chain] for chain in chains}
        marks = {chain: mark for chain, mark in self.marks.items() if chain in ends}
        return replace(self, ends=ends, marks=marks, others=None, archive=self.archive.of(chains))

    def without(self, chains: Collection[int]) -> Share:
        """Of all but these chains."""
        ends = {chain: end for chain, end in self.ends.items() if chain not in chains}
        marks = {chain: mark for chain, mark in self.marks.items() if chain not in chains}
        archive = self.archive.of({one.chain for one in self.archive.files} - set(chains))
        return replace(self, ends=ends, marks=marks, others=tuple(chains), archive=archive)


class News(NamedTuple):
    """What came of a page: how many rows were walked, what was found, how often, and how far each chain is."""

    rows: int
    found: list[Found]
    broken: int
    marks: dict[int, Mark]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A chain, walked to its end."""

    chain: int
    rows: int
    unchained: int
    unsealed: int
    unchecked_seals: int


@dataclass(slots=True)
class Walked:
    """What a share came to: the first findings, and how many there were."""

    outcomes: list[Outcome] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    broken: int = 0

    def note(self, chain: int, found: Iterable[Broken]) -> None:
        """Count what was found in a chain."""
        for one in found:
            self.broken += 1
            if len(self.found) < MAX_FINDINGS:
                self.found.append((chain, one))


async def walk(share: Share, tell: Callable[[News], None]) -> Walked:
    """Walk the chains of a share; `tell` is told after each page. Raises the driver's errors."""
    connection: Any = await asyncpg.connect(share.database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(f"SET TRANSACTION SNAPSHOT '{share.snapshot}'")
            await write_as_ledger(connection)
            return await _Walker(connection, share).walk(tell)
    finally:
        await connection.close()


class _Walker:
    def __init__(self, connection: Connection, share: Share) -> None:
        self._connection = connection
        self._share = share
        self._keys = {key_id(key): key for key in map(from_pem, share.keys)}
        self._strands: dict[int, Strand] = {}
        self._walked = Walked()
        for chain in share.ends.keys() | share.marks.keys():
            self._strand(chain)

    async def walk(self, tell: Callable[[News], None]) -> Walked:
        told = broken = 0
        for row in await self._connection.fetch(_STRAYS, *self._mine(), self._share.upto):
            strand = self._strand(chain_of(row["partition"]))
            self._walked.note(strand.chain, strand.stray(row))
        async for upto, page in self._pages():
            by_chain: dict[int, list[Any]] = {}
            for row in page:
                by_chain.setdefault(chain_of(row["partition"]), []).append(row)
            await self._expect_seals(by_chain)
            for chain, rows in by_chain.items():
                self._walked.note(chain, self._strand(chain).take(rows))
            marks = {chain: strand.mark(upto) for chain, strand in self._strands.items()}
            tell(News(len(page), self._walked.found[told:], self._walked.broken - broken, marks))
            told, broken = len(self._walked.found), self._walked.broken
        for _, strand in sorted(self._strands.items()):
            await self._finish(strand)
        return self._walked

    async def _pages(self) -> AsyncIterator[tuple[int, list[Any]]]:
        """Up to which number of the table, and the rows since the page before; those of the archive among them."""
        after = min((mark.after for mark in self._share.marks.values()), default=0)
        archived = ByNumber(self._share.archive, after)
        while after < self._share.upto:
            upto = min(after + PAGE, self._share.upto)
            rows = await self._connection.fetch(_PAGE, *self._mine(), after, upto)
            yield upto, sorted([*rows, *archived.upto(upto)], key=itemgetter("seq"))
            after = upto
        if strays := archived.rest():
            yield after, strays
        for one, problem in archived.problems:
            self._walked.note(one.chain, [Broken(f"archive {one.file}", problem)])

    async def _expect_seals(self, by_chain: Mapping[int, list[Any]]) -> None:
        """Those of the rows of a page; a number that is far ahead was tampered with."""
        after = [self._strand(chain).walk.length for chain in by_chain]
        last = [max(row["chain_no"] or 0 for row in rows) for rows in by_chain.values()]
        upto = [min(number, first + WINDOW + PAGE) for number, first in zip(last, after, strict=True)]
        for row in await self._connection.fetch(_SEALS, list(by_chain), after, upto):
            self._strand(row["chain"]).walk.expect(_signed(row))

    async def _finish(self, strand: Strand) -> None:
        self._walked.note(strand.chain, strand.rest())
        beyond = await self._connection.fetchrow(_BEYOND, strand.chain, strand.walk.length, list(self._keys))
        self._walked.note(strand.chain, strand.finish(None if beyond is None else _signed(beyond)))
        walk, unchained = strand.walk, 0 if strand.end is None else strand.end.unchained
        outcome = Outcome(strand.chain, strand.rows, unchained, walk.length - walk.sealed, walk.unchecked)
        self._walked.outcomes.append(outcome)

    def _mine(self) -> tuple[list[int], bool]:
        return (list(self._share.ends), True) if self._share.others is None else (list(self._share.others), False)

    def _strand(self, chain: int) -> Strand:
        if chain not in self._strands:
            end, mark = self._share.ends.get(chain), self._share.marks.get(chain)
            self._strands[chain] = Strand(chain, end, self._keys, mark)
        return self._strands[chain]


def _signed(row: Any) -> Signed:
    seal = Seal(row["chain"], row["unchained"], row["length"], bytes(row["head"]), row["sealed_at"])
    return Signed(seal, row["key_id"], bytes(row["signature"]))
