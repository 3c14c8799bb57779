"""Dead letters that nobody has dealt with yet."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from shared.control_acts import LetterReturned
from shared.control_state import ControlState, order_of
from shared.partitions import DEAD_LETTERS

MOST_LETTERS = 1000


async def waiting_letters(redis: Redis, control: ControlState) -> list[dict[str, str]]:
    """Newest first, of the newest `MOST_LETTERS`: those that no order about them has followed."""
    found: Any = await redis.xrevrange(DEAD_LETTERS, count=MOST_LETTERS)
    returned = {(act.origin, act.entry_id): act.position for act in control.acts if isinstance(act, LetterReturned)}
    letters = [_letter(entry_id, fields) for entry_id, fields in found]
    return [one for one in letters if not _is_dealt_with(one, returned)]


def _letter(entry_id: bytes, fields: dict[bytes, bytes]) -> dict[str, str]:
    kept = {name: fields.get(name.encode(), b"").decode(errors="replace") for name in ("origin", "entry_id", "reason")}
    return {"letter_id": entry_id.decode(), **kept}


def _is_dealt_with(letter: dict[str, str], returned: dict[tuple[str, str], str]) -> bool:
    """Whether an order about it came after it."""
    ordered = returned.get((letter["origin"], letter["entry_id"]))
    return ordered is not None and order_of(ordered) > order_of(letter["letter_id"])
