"""Books of some months, and an archive for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger import books
from services.ledger.archive.archiving import MonthReport, archive
from services.ledger.archive.parquet import ParquetFile, Wanted, Writer
from services.ledger.audit.chains import verify_chains
from services.ledger.chain.seal import key_id
from services.ledger.intake import Record
from services.ledger.verify import CHECKS, SAME_ROWS, verify
from services.policy.decide import Owner
from shared.partitions import Partition
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, own_database
from tests.unit.ledger.history import History, Op, play

KEY = Ed25519PrivateKey.generate()
KEYS = {key_id(KEY.public_key()): KEY.public_key()}
ENDED: tuple[Op, ...] = (("submit", 0, 3), ("succeed", 0, 8), ("submit", 1, 2), ("fail", 0, 0), ("order", 0, 5))
MARCH, APRIL, MAY, JUNE = (date(2025, month, 1) for month in (3, 4, 5, 6))


class Books:
    """Books of three months, in two partitions, and a folder for their archive."""

    def __init__(self, url: Callable[[str], str], folder: Path, ledger: Any, superuser: Any) -> None:
        self.url = url
        self.folder = folder
        self.ledger = ledger
        self.superuser = superuser

    async def take_in(self, at: datetime, ops: Sequence[Op], partition: int = 0, *, by_stream: bool = False) -> History:
        """A history from that moment on, of a tenant of its own. `by_stream`: one stream was taken in after another."""
        tenant = uuid4()
        owners = Owner(tenant, uuid4()), Owner(tenant, uuid4())
        history = play(ops, owners, int(at.timestamp() * 1000))
        history.partition = Partition(partition)
        tag = history.partition.tag
        history.entries = [(of.replace("{skeldir:0}", tag), entry, event) for of, entry, event in history.entries]
        if by_stream:
            history.entries.sort(key=itemgetter(0))
        await self.commit([*history.records(), *history.control_records()])
        return history

    async def commit(self, records: Sequence[Record]) -> None:
        assert await books.commit(self.ledger, {}, {}, records) == len(records)

    async def archive(self, before: date = JUNE, **options: Any) -> list[MonthReport]:
        return await archive(self.url("skeldir_owner"), self.folder, before, **options)

    async def events(self, *, orders: bool = False) -> list[dict[str, Any]]:
        """What is in the database, without the orders."""
        rows = await self.ledger.fetch("SELECT * FROM events WHERE (partition IS NULL) = $1 ORDER BY seq", orders)
        return [dict(row) for row in rows]

    def archived(self) -> list[dict[str, Any]]:
        """What is in the files, as any tool reads them."""
        found = [row for file in self.folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
        return sorted(found, key=lambda row: row["seq"])

    async def recorded(self) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self.ledger.fetch("SELECT * FROM event_archives ORDER BY first_seq")
        return rows


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with March, in which a task has not ended and an attempt did nobody knows how; April; May."""

    async def fill(url: Callable[[str], str]) -> None:
        ledger = await asyncpg.connect(url("skeldir_ledger"))
        found = Books(url, Path(), ledger, None)
        await found.take_in(datetime(2025, 3, 10, tzinfo=UTC), FULL)
        await found.take_in(datetime(2025, 3, 31, 23, 59, 59, 960000, tzinfo=UTC), ENDED, 1)
        await found.take_in(datetime(2025, 4, 10, tzinfo=UTC), ENDED)
        await found.take_in(datetime(2025, 5, 10, tzinfo=UTC), ENDED)
        await ledger.close()

    with own_database(postgres, "archives") as url:
        asyncio.run(fill(url))
        yield "archives"


NUMBERS = count()


@pytest.fixture
async def kept(postgres: EmbeddedPostgres, filled: str, tmp_path: Path) -> AsyncIterator[Books]:
    """Those books, for one test."""
    with own_database(postgres, f"archives_{next(NUMBERS)}", like=filled) as url:
        ledger, superuser = await asyncpg.connect(url("skeldir_ledger")), await asyncpg.connect(url("postgres"))
        yield Books(url, tmp_path / "archive", ledger, superuser)
        await ledger.close()
        await superuser.close()


async def changed(kept: Books, which: Callable[[Any], bool], **columns: Any) -> dict[str, Any]:
    """Another file in the place of one, with a row that is not what it was, or without it; that row, as it was."""
    for path in sorted(kept.folder.glob("*.parquet")):
        rows = [row for page in ParquetFile(path).pages(Wanted()) for row in page]
        for number, row in enumerate(rows):
            if which(row):
                rows[number : number + 1] = [{**row, **columns}] if columns else []
                path.unlink()
                writer = Writer(path)
                writer.add(rows)
                writer.close()
                return dict(row)
    raise AssertionError("no such row")


async def tamper(kept: Books, statement: str, *arguments: Any) -> None:
    async with kept.superuser.transaction():
        await kept.superuser.execute("SET LOCAL session_replication_role = replica")
        assert not (await kept.superuser.execute(statement, *arguments)).endswith(" 0")


CHECKED = (*CHECKS, SAME_ROWS)


async def findings(kept: Books, keys: Any = KEYS) -> list[str]:
    """What `verify` says, of the books and of the chains."""
    url, folder = kept.url("skeldir_owner"), kept.folder
    report = await verify(url, CHECKED, archive=folder, keys=keys)
    chains = await verify_chains(url, keys, archive=folder)
    found = [(one.subject, one.problem) for one in report.findings] + [tuple(one) for one in chains.findings]
    return [": ".join(one) for one in found]
