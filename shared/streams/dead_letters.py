"""The dead-letter stream: what cannot be processed, with its origin, its bytes and the reason. Nothing is dropped."""

from __future__ import annotations

from collections.abc import Mapping

from shared.partitions import DEAD_LETTERS
from shared.streams.lease import Word


def dead_letter(origin: str, entry_id: bytes | str, fields: Mapping[bytes, bytes], reason: str) -> list[Word]:
    """The XADD that sets an entry aside: its own `type` and `data` as they were, other fields under `field:<name>`."""
    words: list[Word] = ["XADD", DEAD_LETTERS, "*", "origin", origin, "entry_id", entry_id, "reason", reason[:2000]]
    for name, value in fields.items():
        words += [name if name in (b"type", b"data") else b"field:" + name, value]
    return words
