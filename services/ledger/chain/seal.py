"""Seals: the end of a chain at a moment, signed with Ed25519. Pure, but for the files of the keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class UnusableKey(ValueError):
    """A key's file is no Ed25519 key; the text says which."""


@dataclass(frozen=True, slots=True)
class Seal:
    """So far, and no further, a chain went at `sealed_at`. `unchained`: rows from before the chain was begun."""

    chain: int
    unchained: int
    length: int
    head: bytes
    sealed_at: datetime

    def text(self) -> bytes:
        """What is signed."""
        at = self.sealed_at.astimezone(UTC).isoformat(timespec="microseconds")
        lines = ("skeldir seal 1", self.chain, self.unchained, self.length, self.head.hex(), at)
        return "\n".join(map(str, lines)).encode()


def new_key() -> str:
    """A new private key, as PEM."""
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def read_private(file: Path) -> Ed25519PrivateKey:
    """The key that seals. Raises UnusableKey, OSError."""
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKey(f"{file} holds no private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UnusableKey(f"{file} holds another key than one of Ed25519")
    return key


def read_public(file: Path) -> Ed25519PublicKey:
    """The key that seals are checked by; a file with the private one does, too. Raises UnusableKey, OSError."""
    text = file.read_bytes()
    if b"PRIVATE KEY" in text:
        return read_private(file).public_key()
    try:
        return from_pem(text)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKey(f"{file} holds no public key: {error}") from error


def from_pem(text: bytes) -> Ed25519PublicKey:
    """The public key that `public_pem` wrote. Raises ValueError, TypeError, UnsupportedAlgorithm."""
    key = serialization.load_pem_public_key(text)
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError("it is of another kind than Ed25519")
    return key


def public_pem(key: Ed25519PublicKey) -> str:
    """The public key, for whoever checks."""
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, form).decode()


def key_id(key: Ed25519PublicKey) -> str:
    """A short name of a key: of the SHA-256 of its 32 bytes the first 16 hex digits."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def sign(key: Ed25519PrivateKey, seal: Seal) -> bytes:
    """The signature."""
    return key.sign(seal.text())


def is_signed(key: Ed25519PublicKey, seal: Seal, signature: bytes) -> bool:
    """Whether the key's owner signed this."""
    try:
        key.verify(signature, seal.text())
    except InvalidSignature:
        return False
    return True
