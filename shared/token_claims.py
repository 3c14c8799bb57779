"""Whose a bearer token of an organisation's identity provider is (JWT, RFC 7519). Pure; signatures: `shared/tokens.py`.

A token stands for an API key: its claims say whose it is. It cannot be revoked here, so it should not live long.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from shared.control_state import Key
from shared.events.envelope import NAMESPACE, named_id

ROLES = frozenset({"producer", "operator", "auditor"})
LEEWAY_MS = 30_000
MAX_TOKEN_LENGTH = 8192


class TokenRefused(Exception):
    """The token says nothing: `unavailable` where that is because the provider's keys cannot be had."""

    def __init__(self, problem: str, kind: Literal["invalid", "unavailable"] = "invalid") -> None:
        super().__init__(problem)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claims are required, and where a token says whose it is."""

    issuer: str
    audience: str
    tenant: str = "tenant_id"
    user: str = "sub"
    role: str = "role"

    def key_of(self, claims: dict[str, Any], now_ms: int) -> Key:
        """The key that a token with a good signature stands for. Pure. Raises TokenRefused."""
        until_ms = _until_ms(claims, now_ms)
        if claims.get("iss") != self.issuer:
            raise TokenRefused("the token is of another issuer")
        audience = claims.get("aud")
        if self.audience not in (audience if isinstance(audience, list) else [audience]):
            raise TokenRefused("the token is for another audience")
        subject, role = claims.get(self.user), claims.get(self.role, "producer")
        if not isinstance(subject, str) or not subject or role not in sorted(ROLES):
            raise TokenRefused(f"the claims {self.user} and {self.role} do not say who this is, and in which role")
        return Key(
            key_id=f"jwt-{hashlib.sha256(f'{self.issuer} {subject}'.encode()).hexdigest()[:16]}",
            tenant_id=_tenant(claims.get(self.tenant), self.tenant),
            user_id=user_of(self.issuer, subject),
            role=role,
            until_ms=until_ms,
            actor=subject[:200],
            since_ms=now_ms,
        )


def user_of(issuer: str, subject: str) -> UUID:
    """The user that a subject is: itself where it is a UUID, else always the same one."""
    try:
        return UUID(subject)
    except ValueError:
        return named_id(NAMESPACE, f"{issuer} {subject}")


def looks_like_token(secret: str) -> bool:
    """Whether this may be a JWT: three parts, and no longer than one may be."""
    return secret.count(".") == 2 and len(secret) <= MAX_TOKEN_LENGTH


def _until_ms(claims: dict[str, Any], now_ms: int) -> int:
    expires, not_before = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(expires, int | float) or not isinstance(not_before, int | float):
        raise TokenRefused("a token needs an end: the claim exp, in seconds")
    if not abs(expires) < 2**40 or not abs(not_before) < 2**40:
        raise TokenRefused("the token's times are out of range")
    if now_ms + LEEWAY_MS < not_before * 1000:
        raise TokenRefused("the token is not valid yet")
    until_ms = int(expires * 1000) + LEEWAY_MS
    if now_ms >= until_ms:
        raise TokenRefused("the token has expired")
    return until_ms


def _tenant(value: Any, claim: str) -> UUID:
    try:
        return UUID(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise TokenRefused(f"the claim {claim} is no tenant's id (a UUID)") from error
