"""One file of the archive, while it is written; it gets its name when it is on the disk and reads as it was written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from services.ledger.archive.parquet import ParquetFile, Row, Wanted, Writer
from services.ledger.archive.record import ArchivedFile, ArchiveProblem
from services.ledger.chain.link import canonical, of_row
from shared.control_state import order_of

# Texts that stand as they were: recorded while nothing was encrypted.
_PLAIN_MARKS = ('"$encrypted"', '"storage":"none"', '"prompt":{}')


class NewFile:
    """A file of one chain while it is written; its name, at the end, is of what is in it."""

    def __init__(self, folder: Path, month: date, chain: int) -> None:
        self.chain = chain
        self._folder = folder
        self._month = month
        self._path = folder / f".{uuid4().hex}.part"
        self._writer = Writer(self._path)
        self._digest = hashlib.sha256()
        self._rows = self._unencrypted = 0
        self._seqs: tuple[int, int] = (0, 0)
        self._entries: tuple[str, str] = ("", "")

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)  # where it did not come to its end

    def add(self, rows: Sequence[Row]) -> None:
        """The next rows."""
        self._writer.add(rows)
        entries = [row["entry_id"] for row in rows] + [one for one in self._entries if one]
        self._entries = min(entries, key=order_of), max(entries, key=order_of)
        self._seqs = self._seqs[0] or rows[0]["seq"], rows[-1]["seq"]
        self._rows += len(rows)
        self._unencrypted += sum(map(_is_plain, rows))
        _update(self._digest, rows)

    def close(self) -> ArchivedFile:
        """On the disk, read back, and under its name. Raises ArchiveProblem, OSError."""
        self._writer.close()
        found, again = 0, hashlib.sha256()
        for page in ParquetFile(self._path).pages(Wanted()):
            found += len(page)
            _update(again, page)
        if (found, again.digest()) != (self._rows, self._digest.digest()):
            raise ArchiveProblem(f"{self._path} does not read as it was written: is the disk sound?")
        with self._path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
        name = f"events-{self._month:%Y-%m}-{self.chain}-{sha256.hex()[:16]}.parquet"
        size = self._path.stat().st_size
        self._path.replace(self._folder / name)
        _sync(self._folder)
        return ArchivedFile(
            name, self._month, self.chain, self._rows, *self._seqs, *self._entries, self._unencrypted, size, sha256,
            datetime.now(UTC),
        )  # fmt: skip


def _update(digest: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        digest.update(canonical(of_row(row)))
        digest.update(f"\0{row['seq']}\0{row['chain_no']}\0{(row['chain_hash'] or b'').hex()}\0".encode())


def _is_plain(row: Row) -> bool:
    return row["type"] == "task.submitted" and not any(mark in row["body"] for mark in _PLAIN_MARKS)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
