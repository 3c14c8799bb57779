"""Whatever a provider or a producer sends is data: here it becomes what PostgreSQL can store.

`text` and `jsonb` take no NUL, and no lone surrogate: each becomes U+FFFD, the replacement character.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

REPLACEMENT = "\ufffd"


def text(value: str) -> str:
    """The text with NUL and lone surrogates replaced."""
    if "\x00" in value:
        value = value.replace("\x00", REPLACEMENT)
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def document(value: Any) -> str:
    """JSON text of a value made of dicts, lists, texts, numbers, booleans and None, that a `jsonb` column takes."""
    try:
        dumped = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # a lone surrogate, a number beyond 64 bits, or very deep
        return _slowly(value)
    if b"\\u0000" in dumped:
        return _slowly(value)
    return dumped.decode()


def _slowly(value: Any) -> str:
    try:
        return json.dumps(_cleaned(value), ensure_ascii=False, allow_nan=False)
    except (RecursionError, ValueError) as error:
        return json.dumps({"unstorable": str(error)})


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {text(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value
