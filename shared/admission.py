"""Whose the key is that came with a request: known by its hash from the orders, or an identity provider's token."""

from __future__ import annotations

import hashlib

from shared.clock import Clock
from shared.control_state import Key
from shared.streams.control_reader import ControlReader
from shared.token_claims import TokenRefused, looks_like_token
from shared.token_keys import TokenKeys


class NotAdmitted(Exception):
    """Nobody knows who this is; the text says what to do. `status` is of HTTP, `code` is for programs."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


class Admission:
    """Knows the keys, as fresh as the control stream: one that was revoked is refused once the order has been read."""

    def __init__(self, control: ControlReader, clock: Clock, tokens: TokenKeys | None = None) -> None:
        self._control = control
        self._clock = clock
        self._tokens = tokens

    def key_of(self, authorization: str | None) -> Key:
        """The key in a header `Authorization: Bearer <key>`. Raises NotAdmitted (401; 503: not to be checked now)."""
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise NotAdmitted(401, "missing_key", "send `Authorization: Bearer <key>`")
        if self._control.is_stale:
            problem = "the control stream cannot be read, so keys cannot be checked; try again"
            raise NotAdmitted(503, "control_stale", problem)
        # Looked up by its hash: the time this takes tells nothing about any key.
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return self._control.state.key_for(digest, self._clock.now_ms()) or self._of_token(secret)

    def _of_token(self, secret: str) -> Key:
        if self._tokens is None or not looks_like_token(secret):
            raise NotAdmitted(401, "unknown_key", "this key is not known, was revoked, or has ended")
        try:
            return self._tokens.key_of(secret, self._clock.now_ms())
        except TokenRefused as refused:
            if refused.kind == "unavailable":
                raise NotAdmitted(503, "identity_unavailable", str(refused)) from refused
            raise NotAdmitted(401, "invalid_token", str(refused)) from refused
