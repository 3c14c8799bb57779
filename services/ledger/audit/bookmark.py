"""A file that keeps how far a check of the chains came, so that another run goes on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from services.ledger.audit.strand import Mark
from services.ledger.chain.walk import Broken, Place

VERSION = 1
MAX_FINDINGS = 1000


class UnusableBookmark(ValueError):
    """The file is of something else; the text says of what."""


@dataclass(slots=True)
class Bookmark:
    """By chain: how far it was checked. What was found so far: the first findings, and how many there were.

    `books` names the database.
    """

    books: str
    marks: dict[int, Mark] = field(default_factory=dict)
    findings: list[tuple[int, Broken]] = field(default_factory=list)
    broken: int = 0

    def move(self, marks: Mapping[int, Mark], found: Sequence[tuple[int, Broken]], broken: int) -> None:
        """On to these marks; what was found on the way, and how often."""
        self.marks.update(marks)
        self.broken += broken
        self.findings += found[: max(0, MAX_FINDINGS - len(self.findings))]


def read(file: Path, books: str) -> Bookmark:
    """What the file has; nothing where there is none. Raises UnusableBookmark, OSError."""
    if not file.exists():
        return Bookmark(books)
    try:
        found = orjson.loads(file.read_bytes())
        if (found["skeldir_bookmark"], found["books"]) != (VERSION, books):
            raise UnusableBookmark(f"{file} is of other books, or of another release: remove it to begin anew")
        return Bookmark(
            books,
            {int(chain): _mark(mark) for chain, mark in found["marks"].items()},
            [(chain, Broken(subject, problem)) for chain, subject, problem in found["findings"]],
            found["broken"],
        )
    except UnusableBookmark:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableBookmark(f"{file} does not say how far a check came: give another name") from error


def write(file: Path, bookmark: Bookmark) -> None:
    """Keep it; whoever reads sees all of it or what was there before. Raises OSError."""
    kept = {
        "skeldir_bookmark": VERSION,
        "books": bookmark.books,
        "marks": {str(chain): _as_json(mark) for chain, mark in bookmark.marks.items()},
        "findings": [[chain, *found] for chain, found in bookmark.findings],
        "broken": bookmark.broken,
    }
    beside = file.with_name(f"{file.name}.new")
    beside.write_bytes(orjson.dumps(kept))
    beside.replace(file)


def remove(file: Path) -> None:
    """The check has come to its end. Raises OSError."""
    file.unlink(missing_ok=True)


def _mark(kept: Mapping[str, Any]) -> Mark:
    place = dict(kept["place"])
    place["hash"] = None if place["hash"] is None else bytes.fromhex(place["hash"])
    return Mark(**{**kept, "place": Place(**place)})


def _as_json(mark: Mark) -> dict[str, Any]:
    found = asdict(mark)
    found["place"]["hash"] = None if mark.place.hash is None else mark.place.hash.hex()
    return found
