"""Who calls: bearer keys, known by the hash that operators published, and how often each may call."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from uuid import UUID

from starlette.requests import Request

from services.gateway.problems import Problem
from shared.clock import Clock
from shared.control_state import Key
from shared.privacy import TenantPrivacy
from shared.streams.control_reader import ControlReader
from shared.token_claims import TokenRefused, looks_like_token
from shared.token_keys import TokenKeys

MAX_BUCKETS = 10_000


class Doorkeeper:
    """Knows keys and rates. A revoked key is refused as soon as this gateway has read the order."""

    def __init__(
        self, control: ControlReader, clock: Clock, rate_per_s: float, tokens: TokenKeys | None = None
    ) -> None:
        self._control = control
        self._clock = clock
        self._rate_per_s = rate_per_s
        self._tokens = tokens
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, request: Request, *roles: str) -> Key:
        """The caller's key. Raises Problem 401, 403, 429, or 503 while orders cannot be read."""
        if self._control.is_stale:
            problem = "the control stream cannot be read, so keys cannot be checked; try again"
            raise Problem(503, "control_stale", problem, retry_after_s=1)
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Problem(401, "missing_key", "send `Authorization: Bearer <key>`")
        key = self._key_of(secret.strip())
        if roles and key.role not in roles:
            raise Problem(403, "wrong_role", f"this key has the role {key.role}; {' or '.join(roles)} is needed")
        self._spend(key.key_id)
        return key

    def privacy_of(self, tenant_id: UUID) -> TenantPrivacy:
        """What is stored of a tenant's texts, as of the orders by which its key was admitted."""
        return self._control.state.privacy_of(tenant_id)

    def _key_of(self, secret: str) -> Key:
        # Looked up by its hash: the time this takes tells nothing about any key.
        digest = hashlib.sha256(secret.encode()).hexdigest()
        key = self._control.state.key_for(digest, self._clock.now_ms())
        if key is not None:
            return key
        if self._tokens is None or not looks_like_token(secret):
            raise Problem(401, "unknown_key", "this key is not known, was revoked, or has ended")
        try:
            return self._tokens.key_of(secret, self._clock.now_ms())
        except TokenRefused as refused:
            if refused.kind == "unavailable":
                raise Problem(503, "identity_unavailable", str(refused), retry_after_s=2) from refused
            raise Problem(401, "invalid_token", str(refused)) from refused

    def _spend(self, key_id: str) -> None:
        """One request from the key's token bucket, which holds a second's worth."""
        if self._rate_per_s <= 0:
            return
        now = time.monotonic()
        most = max(1.0, self._rate_per_s)
        tokens, since = self._buckets.pop(key_id, (most, now))
        tokens = min(most, tokens + (now - since) * self._rate_per_s)
        # A refusal costs nothing: who asks too often is slowed down to the rate, not shut out.
        self._buckets[key_id] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            wait_s = (1 - tokens) / self._rate_per_s
            raise Problem(429, "rate_limited", "too many requests with this key", retry_after_s=wait_s)


def user_for(key: Key, named: UUID | None) -> UUID:
    """The user that a request acts for. Raises Problem 403 for another than the key's, 422 where none is named."""
    if key.user_id is not None and named is not None and named != key.user_id:
        raise Problem(403, "wrong_user", "this key may act for its own user only")
    user_id = named or key.user_id
    if user_id is None:
        raise Problem(422, "missing_user", "this key names no user: give user_id")
    return user_id
