"""Whether rows, on their way into the archive or back, are those that were hashed: each follows on the one before it.

The one before may be elsewhere: in a file, in the month before or, where it was taken in late, in a later one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.ledger.archive.parquet import ParquetFile
from services.ledger.archive.record import Archive, ArchiveProblem
from services.ledger.chain.link import link, of_row, start
from services.ledger.chain.walk import about, name_of
from services.ledger.sessions import Connection

NEAR = 100_000

_NEAR = f"""
SELECT chain_no, chain_hash FROM events
WHERE partition = $1 AND chain_no = ANY ($2) AND seq >= $3 - {NEAR} AND seq < $4
"""
_ANYWHERE = "SELECT chain_no, chain_hash FROM events WHERE partition = $1 AND chain_no = ANY ($2)"


class Links:
    """Rows chain after chain, by their numbers. `refusal`: what then is not done."""

    def __init__(self, connection: Connection, archive: Archive, refusal: str) -> None:
        self._connection = connection
        self._archive = archive
        self._refusal = refusal
        self._last: tuple[int, int, bytes] = (0, -1, b"")
        self._beginnings: dict[int, list[Mapping[str, Any]]] = {}

    def follow(self, chain: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """The next rows of a chain. Raises ArchiveProblem."""
        for row in rows:
            number = row["chain_no"]
            if number is None:
                continue  # from before there was a chain
            if (chain, number - 1) == self._last[:2]:
                self._check(chain, row, self._last[2])
            else:
                self._beginnings.setdefault(chain, []).append(row)
            self._last = chain, number, row["chain_hash"]

    async def check_beginnings(self) -> None:
        """The rows whose predecessor was not among them. Raises ArchiveProblem."""
        for chain, rows in self._beginnings.items():
            hashes = {0: start(chain)}
            wanted = {row["chain_no"] - 1 for row in rows} - {0}
            first, last = min(row["seq"] for row in rows), max(row["seq"] for row in rows)
            for query, more in ((_NEAR, (first, last)), ("", ()), (_ANYWHERE, ())):
                if missing := sorted(wanted - hashes.keys()):
                    found = (
                        await self._connection.fetch(query, chain, missing, *more)
                        if query
                        else self._in_files(chain, missing)
                    )
                    hashes |= {row["chain_no"]: row["chain_hash"] for row in found}
            for row in rows:
                before = hashes.get(row["chain_no"] - 1)
                if before is None:
                    raise self._problem(chain, row, "the row before it is missing")
                self._check(chain, row, before)

    def _in_files(self, chain: int, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for one in reversed(self._archive.of([chain]).files):
            if len(found) < len(numbers):
                found += ParquetFile(self._archive.path(one)).by_chain_numbers(numbers, ("chain_no", "chain_hash"))
        return found

    def _check(self, chain: int, row: Mapping[str, Any], before: bytes) -> None:
        if link(before, of_row(row)) != row["chain_hash"]:
            raise self._problem(chain, row, "its hash is not that of its content and the row before it")

    def _problem(self, chain: int, row: Mapping[str, Any], what: str) -> ArchiveProblem:
        where = f"{name_of(chain)} row {row['chain_no']}"
        return ArchiveProblem(f"{where}, {about(row)}: {what}; {self._refusal}: see `skeldir ledger verify`")
