"""Whether the log goes on where the books end: after a loss of either, nobody may go on as if nothing had happened.

Trimming keeps the entry at the checkpoint itself, so as a rule it is there. Where it is not:

| the stream                       | is     | because                                                     |
| has only newer entries, others were   | GAP    | the books are an older copy than what the log was trimmed behind |
| has older entries                     | BEHIND | the log is an older copy, or a fail-over lost its end            |
| is new, and policy has state beside   | WHOLE  | it was filled again from the books (`skeldir restore log`)       |
| is new, and policy has no state       | LOST   | the log was lost, and nothing was restored                       |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.control_state import order_of
from shared.partitions import CONTROL

NOTHING = "0-0"
MAX_SEQUENCE = 2**64 - 1

log = structlog.get_logger(__name__)


class Standing(IntEnum):
    """How a stream stands to the books; the worst is the highest."""

    WHOLE = 0
    BEHIND = 1
    GAP = 2
    LOST = 3


class Broken(Exception):
    """The ledger must not go on: the text says what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is of a stream. `removed`: how many entries were added to it and are not there any more."""

    has_checkpoint: bool = False
    first: str | None = None
    last: str = NOTHING
    removed: int = 0


def judge(checkpoint: str, seen: Seen, *, known: bool) -> Standing:
    """How a stream stands; `known`: policy has state of its partition."""
    if seen.has_checkpoint or (seen.first is not None and before(seen.first) == checkpoint):
        return Standing.WHOLE
    if checkpoint == NOTHING:
        return Standing.GAP if seen.removed else Standing.WHOLE
    if seen.first is not None and order_of(seen.first) < order_of(checkpoint):
        return Standing.BEHIND
    if seen.removed:
        return Standing.BEHIND if order_of(seen.last) < order_of(checkpoint) else Standing.GAP
    if not known:
        return Standing.LOST
    return Standing.WHOLE if order_of(seen.last) >= order_of(checkpoint) else Standing.BEHIND


async def look(redis: Redis, stream: str, checkpoint: str) -> Seen:
    """Look at a stream. Raises RedisError."""
    try:
        info: Any = await redis.xinfo_stream(stream)
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return Seen()
    there: Any = await redis.xrange(stream, min=checkpoint, max=checkpoint) if checkpoint != NOTHING else []
    first = info["first-entry"]
    return Seen(
        has_checkpoint=bool(there),
        first=None if first is None else first[0].decode(),
        last=_text(info["last-generated-id"]),
        removed=int(info["entries-added"]) - int(info["length"]),
    )


async def standings(redis: Redis, positions: Mapping[str, str], policy_key: str | None) -> dict[str, Standing]:
    """How these streams of one partition (or the control stream) stand to the books' positions in them.

    Raises RedisError.
    """
    known = policy_key is not None and bool(await redis.hgetall(policy_key))
    return {stream: judge(at, await look(redis, stream, at), known=known) for stream, at in positions.items()}


def refuse(found: Mapping[str, Standing], *, lost: bool) -> None:
    """Raise Broken where the ledger must not go on; `lost`: look for what is lost, else for gaps."""
    for stream, standing in found.items():
        if standing is Standing.LOST or (standing is Standing.BEHIND and stream == CONTROL):
            if lost:
                raise Broken(f"{stream} lacks what the books have: stop the services, then `skeldir restore log`")
        elif standing is Standing.GAP and not lost:
            raise Broken(f"{stream} was trimmed past the books' end: restore a newer copy, or `skeldir restore gap`")
        elif standing is Standing.BEHIND and lost:
            log.error("the log is behind the books: its end was lost", stream=stream)


def before(entry_id: str) -> str:
    """The id right before another, whether there is such an entry or not."""
    milliseconds, sequence = order_of(entry_id)
    return f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{MAX_SEQUENCE}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
