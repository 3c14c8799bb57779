"""The links of a chain. Pure: bytes of a row in, its hash out. What stands here is for ever: hashes are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any

CONTROL_CHAIN = -1
"""The chain of the control stream, which is in no partition."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


COLUMNS = (
    "id", "partition", "stream", "entry_id", "type", "version", "time", "tenant_id", "user_id", "subject",
    "correlation_id", "causation_id", "body",
)  # fmt: skip
"""What a link covers: every column that says something of the event."""

of_record = attrgetter(*COLUMNS)
of_row = itemgetter(*COLUMNS)

Values = tuple[Any, ...]
"""Those columns, in that order."""


def chain_of(partition: int | None) -> int:
    """The chain that a partition's events are in."""
    return CONTROL_CHAIN if partition is None else partition


def start(chain: int) -> bytes:
    """What stands in the place of the hash before a chain's first row."""
    return hashlib.sha256(f"skeldir chain {chain}".encode()).digest()


def canonical(values: Values) -> bytes:
    """The row as bytes: its columns as text, with NUL, which no stored text can have, between them. Ids are hexadecimal
    numbers, times microseconds since the epoch, what is missing is empty, and a correlation id stands behind `=`."""
    event_id, partition, stream, entry_id, kind, version, at, tenant, user, subject, correlation, cause, body = values
    return "\0".join(
        (
            f"{event_id.int:x}",
            "" if partition is None else str(partition),
            stream,
            entry_id,
            kind,
            str(version),
            str((at - _EPOCH) // _MICROSECOND),
            "" if tenant is None else f"{tenant.int:x}",
            "" if user is None else f"{user.int:x}",
            subject,
            "" if correlation is None else f"={correlation}",
            "" if cause is None else f"{cause.int:x}",
            body,
        )
    ).encode()


def link(before: bytes, values: Values) -> bytes:
    """The row's hash: SHA-256 of the hash before it and its own bytes."""
    return hashlib.sha256(before + canonical(values)).digest()


def links(before: bytes, rows: Iterable[Values]) -> list[bytes]:
    """The hashes of rows that follow one another."""
    found = []
    for values in rows:
        before = link(before, values)
        found.append(before)
    return found
