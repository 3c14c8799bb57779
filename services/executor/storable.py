"""Whatever a provider sends is data: made storable here, once, before anything is written."""

from __future__ import annotations

import re
from typing import Any

import orjson

BOUNDARY_ID = "b07_p3_aisuite_chokepoint"
MAX_TOKENS = 2**31 - 1
MAX_DEPTH = 64

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def text(value: Any) -> str:
    """Valid Unicode without NUL: what neither JSON nor PostgreSQL can hold becomes U+FFFD."""
    if type(value) is str and value.isascii() and "\x00" not in value:
        return value  # as nearly all of it
    string = value if isinstance(value, str) else "" if value is None else str(value)
    return _UNSTORABLE.sub("\ufffd", string)


def tree(value: Any, depth: int = 0) -> Any:
    """The same for a JSON value; what JSON cannot hold becomes its text."""
    if isinstance(value, str):
        return text(value)
    if depth > MAX_DEPTH and isinstance(value, dict | list | tuple):
        return "[nested too deeply]"
    if isinstance(value, dict):
        return {text(key): tree(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tree(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    return text(value)


def trace(value: Any) -> dict[str, Any]:
    """A reasoning trace as an object, also where the provider sent a string or a list."""
    if value is None:
        return {}
    kept = tree(value)
    return kept if isinstance(kept, dict) else {"text": kept} if isinstance(kept, str) else {"value": kept}


def compact(value: Any) -> str:
    """A JSON value as text."""
    return orjson.dumps(tree(value)).decode()


def tokens(value: Any) -> int:
    """A token count that can be stored."""
    return min(max(value, 0), MAX_TOKENS) if isinstance(value, int) else 0
