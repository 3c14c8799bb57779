"""What the books say of the files of the archive, and which of them there are. Files are read by `reading.py`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.ledger.chain.seal import key_id
from services.ledger.sessions import Connection

_ALL = "SELECT * FROM event_archives ORDER BY first_seq"


class ArchiveProblem(ValueError):
    """The archive is wanted and not given, or is not what the books say; the text says what to do."""


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """Events of one chain and month, in the order of `seq`. A month that got late events has several."""

    file: str
    month: date
    chain: int
    rows: int
    first_seq: int
    last_seq: int
    first_entry: str
    last_entry: str
    unencrypted: int
    size: int
    sha256: bytes
    archived_at: datetime
    key_id: str | None = None
    signature: bytes | None = None

    def text(self) -> bytes:
        """What is signed."""
        at = self.archived_at.astimezone(UTC).isoformat(timespec="microseconds")
        said = (self.file, self.month, self.chain, self.rows, self.first_seq, self.last_seq)
        more = (self.first_entry, self.last_entry, self.unencrypted, self.size, self.sha256.hex(), at)
        return "\n".join(map(str, ("skeldir archive 1", *said, *more))).encode()

    def signed(self, key: Ed25519PrivateKey) -> ArchivedFile:
        """The same, sealed."""
        return replace(self, key_id=key_id(key.public_key()), signature=key.sign(self.text()))


@dataclass(frozen=True, slots=True)
class Archive:
    """The files that are to be read beside the tables, by their first number, and where they lie."""

    folder: Path | None = None
    files: tuple[ArchivedFile, ...] = ()

    def path(self, one: ArchivedFile) -> Path:
        """Where a file lies. Raises ArchiveProblem."""
        if self.folder is None or Path(one.file).name != one.file:
            raise ArchiveProblem(f"{one.file!r} is no name of a file in an archive")
        return self.folder / one.file

    def within(self, after: int, upto: int) -> Archive:
        """Those that may have rows with such numbers."""
        return replace(self, files=tuple(one for one in self.files if one.first_seq <= upto and one.last_seq > after))

    def of(self, chains: Collection[int]) -> Archive:
        """Those of some chains."""
        return replace(self, files=tuple(one for one in self.files if one.chain in chains))


NOTHING = Archive()


async def find(connection: Connection, folder: Path | None) -> Archive:
    """The archive as this transaction sees it. Raises ArchiveProblem where there is one and no folder was given."""
    files = tuple(ArchivedFile(**row) for row in await connection.fetch(_ALL))
    if not files:
        return NOTHING
    first, last = (f"{of(one.month for one in files):%Y-%m}" for of in (min, max))
    span = first if first == last else f"{first} to {last}"
    if folder is None:
        raise ArchiveProblem(f"events of {span} are in an archive: give its folder (--archive, SKELDIR_ARCHIVE_DIR)")
    if not os.path.isdir(folder):  # noqa: ASYNC240
        raise ArchiveProblem(f"the archive, with events of {span}, is no folder: {folder}")
    return Archive(folder, files)


async def find_whole(connection: Connection, folder: Path | None) -> Archive:
    """The same, each file held against its record: for those whose answer would be wrong. Raises ArchiveProblem."""
    archive = await find(connection, folder)
    for one, problem in problems(archive):
        raise ArchiveProblem(f"{one.file} of the archive {problem}")
    return archive


def problems(
    archive: Archive, keys: Mapping[str, Ed25519PublicKey] | None = None
) -> Iterator[tuple[ArchivedFile, str]]:
    """What is wrong with the files. `keys`: public keys by their ids; a seal by another is not looked at."""
    for one in archive.files:
        path = archive.path(one)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").digest()
        except FileNotFoundError:
            yield one, f"is missing, with {one.rows:,} events of {one.month:%Y-%m}"
            continue
        except OSError as error:
            yield one, f"cannot be read: {error.strerror or error}"
            continue
        if found != one.sha256:
            yield one, "was changed: its SHA-256 is not the recorded one"
        elif not _is_sealed(one, keys or {}):
            yield one, "has a record that was changed: its seal is not that of its content"


def _is_sealed(one: ArchivedFile, keys: Mapping[str, Ed25519PublicKey]) -> bool:
    key = keys.get(one.key_id or "")
    if key is None:
        return True
    try:
        key.verify(one.signature or b"", one.text())
    except InvalidSignature:
        return False
    return True
