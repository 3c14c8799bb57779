"""Who calls (`shared/admission.py`), in which role, and how often each may call."""

from __future__ import annotations

import time
from collections import OrderedDict
from uuid import UUID

from starlette.requests import Request

from services.gateway.problems import Problem
from shared.admission import Admission, NotAdmitted
from shared.clock import Clock
from shared.control_state import Key
from shared.privacy import TenantPrivacy
from shared.streams.control_reader import ControlReader
from shared.token_keys import TokenKeys

MAX_BUCKETS = 10_000
# So soon may a key be checked that cannot be checked now.
RETRY_S = 1.0


class Doorkeeper:
    """Knows keys and rates. A revoked key is refused as soon as this gateway has read the order."""

    def __init__(
        self, control: ControlReader, clock: Clock, rate_per_s: float, tokens: TokenKeys | None = None
    ) -> None:
        self._control = control
        self._rate_per_s = rate_per_s
        self._admission = Admission(control, clock, tokens)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, request: Request, *roles: str) -> Key:
        """The caller's key. Raises Problem 401, 403, 429, or 503 while orders cannot be read."""
        try:
            key = self._admission.key_of(request.headers.get("authorization"))
        except NotAdmitted as refused:
            again_s = RETRY_S if refused.status == 503 else None
            raise Problem(refused.status, refused.code, str(refused), retry_after_s=again_s) from refused
        if roles and key.role not in roles:
            raise Problem(403, "wrong_role", f"this key has the role {key.role}; {' or '.join(roles)} is needed")
        self._spend(key.key_id)
        return key

    def privacy_of(self, tenant_id: UUID) -> TenantPrivacy:
        """What is stored of a tenant's texts, as of the orders by which its key was admitted."""
        return self._control.state.privacy_of(tenant_id)

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
