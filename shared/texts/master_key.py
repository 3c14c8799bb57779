"""The master key, under which data keys are stored. From a file, or from what a command prints (a KMS, a vault).

One key a line: 32 bytes as base64. The first wraps new data keys; the others still open what they wrapped, until
`skeldir ledger rewrap` has put everything under the first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.texts.cipher import DataKey

KEY_BYTES = 32
COMMAND_TIMEOUT_S = 30
_NONCE_BYTES = 12


class UnusableMasterKey(ValueError):
    """The master key cannot be had, or is none; the text says which, and never the key."""


@dataclass(frozen=True, slots=True, repr=False)
class MasterKeys:
    """The keys by their names; `current` wraps."""

    current: str
    by_name: Mapping[str, bytes]

    def wrap(self, key: DataKey) -> bytes:
        """The data key's secret, as it is stored. Its id is authenticated with it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self.by_name[self.current]).encrypt(nonce, key.secret, key.id.bytes)

    def unwrap(self, key_id: UUID, name: str, wrapped: bytes) -> DataKey:
        """The data key. Raises UnusableMasterKey where it was wrapped by a key that is not here."""
        if name not in self.by_name:
            raise UnusableMasterKey(
                f"data keys are wrapped by the master key {name}, which is not among those given: add its line"
            )
        try:
            secret = AESGCM(self.by_name[name]).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], key_id.bytes)
        except Exception as error:  # the library's InvalidTag, or ValueError for what is too short
            raise UnusableMasterKey(f"the data key {key_id} does not open by the master key {name}") from error
        return DataKey(key_id, secret)


def new_master_key() -> str:
    """A new key's line."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n"


def parse_master_keys(text: str) -> MasterKeys:
    """The keys of a file's text. Raises UnusableMasterKey."""
    by_name: dict[str, bytes] = {}
    for number, line in enumerate(text.split(), start=1):
        try:
            key = base64.b64decode(line, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise UnusableMasterKey(f"line {number} of the master key is not {KEY_BYTES} bytes as base64")
        by_name[hashlib.sha256(b"skeldir master key" + key).hexdigest()[:16]] = key
    if not by_name:
        raise UnusableMasterKey("the master key is empty; `openssl rand -base64 32` makes one")
    return MasterKeys(next(iter(by_name)), by_name)


def read_master_keys(file: Path | None, command: str | None) -> MasterKeys | None:
    """From the file, else from the command; None where neither is set. Raises UnusableMasterKey."""
    if file is not None:
        try:
            return parse_master_keys(file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise UnusableMasterKey(f"the master key's file cannot be read: {error}") from error
    if command is None:
        return None
    try:
        ran = subprocess.run(  # noqa: S603 - the operator's own command
            shlex.split(command), capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True, text=True
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UnusableMasterKey(f"the master key's command failed: {type(error).__name__}") from error
    return parse_master_keys(ran.stdout)
