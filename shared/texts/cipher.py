"""One text, encrypted with its user's data key. Pure.

AES-256-SIV (RFC 5297) takes no nonce: the same text at the same place of the same task gives the same bytes, so taking
an event in again gives the same event, and nothing is lost where that happens. Task and field are authenticated with
the text: a ciphertext that was moved to another place does not open.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

KEY_BITS = 512
_PREFIX = "skeldir:encrypted:1:"
_TOKEN = re.compile(re.escape(_PREFIX) + r"([0-9a-f]{32}):([A-Za-z0-9_=-]+)")


@dataclass(frozen=True, slots=True, repr=False)
class DataKey:
    """The key of one tenant's user. Its secret is never printed."""

    id: UUID
    secret: bytes

    def __repr__(self) -> str:
        return f"DataKey({self.id})"


def new_secret() -> bytes:
    """A new data key's secret."""
    return AESSIV.generate_key(KEY_BITS)


def encrypt(key: DataKey, task_id: str, field: str, text: bytes) -> str:
    """The text as a token: printable, and with its key's id."""
    sealed = _cipher(key.secret).encrypt(text, _place(task_id, field))
    return f"{_PREFIX}{key.id.hex}:{base64.urlsafe_b64encode(sealed).decode()}"


def decrypt(key: DataKey, task_id: str, field: str, token: str) -> bytes | None:
    """The text; None where this is no token of this key for this place."""
    match = _TOKEN.fullmatch(token)
    if match is None or match[1] != key.id.hex:
        return None
    try:
        return _cipher(key.secret).decrypt(base64.urlsafe_b64decode(match[2]), _place(task_id, field))
    except (InvalidTag, binascii.Error, ValueError):
        return None


def key_of(token: object) -> UUID | None:
    """Which key a token needs; None for what is no token."""
    match = _TOKEN.fullmatch(token) if isinstance(token, str) and token.startswith(_PREFIX) else None
    return None if match is None else UUID(match[1])


def keys_in(text: str) -> Iterator[UUID]:
    """The keys of all tokens in a longer text, such as an event's JSON."""
    for match in _TOKEN.finditer(text):
        yield UUID(match[1])


@lru_cache(4096)
def _cipher(secret: bytes) -> AESSIV:
    """Making one takes twice as long as a text."""
    return AESSIV(secret)


def _place(task_id: str, field: str) -> list[bytes]:
    return [task_id.encode(), field.encode()]
