"""The shell of the walk: a cursor over each chain of the books, on one read-only snapshot. Memory: a page of rows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger.chain.link import COLUMNS, CONTROL_CHAIN
from services.ledger.chain.seal import Seal
from services.ledger.chain.walk import Broken, Signed, Walk
from services.ledger.sessions import Connection, write_as_ledger

PAGE = 2000
TIMEOUT_S = 24 * 3600.0
MAX_FINDINGS = 1000

_LOOSE = "SELECT coalesce(partition, -1) AS chain, count(*) AS rows FROM events WHERE chain_no IS NULL GROUP BY 1"
_ROWS = f"SELECT {', '.join(COLUMNS)}, chain_no, chain_hash FROM events WHERE id = ANY ($1) ORDER BY chain_no"

Progress = Callable[[int, int], None]
"""Told how many rows were checked, of how many."""


@dataclass(slots=True)
class ChainReport:
    """What was checked and found. `findings` are the first `MAX_FINDINGS`; `broken` counts all of them.

    `unsealed`: rows at the ends of chains that no checked signature covers: the last of these can be removed unseen.
    """

    rows: int = 0
    chains: int = 0
    broken: int = 0
    findings: list[Broken] = field(default_factory=list)
    unchained: int = 0
    unsealed: int = 0
    unchecked_seals: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return self.broken == 0

    def add(self, found: Broken) -> None:
        """Count a finding."""
        self.broken += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(found)


async def verify_chains(
    database_url: str,
    keys: Mapping[str, Ed25519PublicKey],
    progress: Progress | None = None,
    only: int | None = None,
) -> ChainReport:
    """Check every chain (or `only` one). `keys`: public keys by their ids. The URL is the ledger's, or the owner's."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    began = time.perf_counter()
    report = ChainReport()
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await write_as_ledger(connection)
            chains = await connection.fetch("SELECT * FROM event_chains WHERE $1::int IS NULL OR chain = $1", only)
            total = sum(row["length"] for row in chains)
            strays = await connection.fetch(_LOOSE)
            loose = {row["chain"]: row["rows"] for row in strays}
            known = {row["chain"] for row in chains}
            for chain in sorted(loose.keys() - known) if only is None else ():
                report.add(Broken(f"partition {chain}", f"{loose[chain]} rows of a chain that was never begun"))
            for head in sorted(chains, key=lambda row: row["chain"]):
                await _walk(connection, head, loose.get(head["chain"], 0), keys, report, progress, total)
    finally:
        await connection.close()
    report.seconds = time.perf_counter() - began
    return report


async def _walk(
    connection: Connection,
    head: Any,
    loose: int,
    keys: Mapping[str, Ed25519PublicKey],
    report: ChainReport,
    progress: Progress | None,
    total: int,
) -> None:
    chain = head["chain"]
    walk = Walk(chain, await _seals(connection, chain), keys)
    async for page in _pages(connection, chain):
        for row in page:
            for found in walk.take(row):
                report.add(found)
        report.rows += len(page)
        if progress is not None:
            progress(report.rows, total)
    for found in walk.finish(head["unchained"], loose, head["length"], bytes(head["head"])):
        report.add(found)
    report.chains += 1
    report.unchained += head["unchained"]
    report.unsealed += walk.length - walk.sealed
    report.unchecked_seals += walk.unchecked


async def _seals(connection: Connection, chain: int) -> list[Signed]:
    rows = await connection.fetch("SELECT * FROM event_seals WHERE chain = $1 ORDER BY length, sealed_at", chain)
    return [
        Signed(
            Seal(row["chain"], row["unchained"], row["length"], bytes(row["head"]), row["sealed_at"]),
            row["key_id"],
            bytes(row["signature"]),
        )
        for row in rows
    ]


async def _pages(connection: Connection, chain: int) -> AsyncIterator[list[Any]]:
    """The server sorts ids, which are small (an index would cost each write); rows are fetched by page."""
    of = "partition IS NULL" if chain == CONTROL_CHAIN else f"partition = {int(chain)}"
    cursor = await connection.cursor(f"SELECT id FROM events WHERE {of} AND chain_no IS NOT NULL ORDER BY chain_no")
    while page := await cursor.fetch(PAGE):
        yield await connection.fetch(_ROWS, [row["id"] for row in page])
