"""Bearer tokens, checked with the keys that their identity provider publishes (JWKS, RFC 7517)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from typing import Any

import httpx
import jwt
import structlog

from shared.control_state import Key
from shared.token_claims import Claims, TokenRefused

# Signatures by a private key only: a secret that is shared could be made up from what is published.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
REFRESH_S = 300.0
# A token that names an unknown key makes us look again, but no sender of such tokens sets the pace.
SOONEST_S = 10.0
TIMEOUT_S = 5.0
MAX_JWKS_BYTES = 2**20
MAX_TOKENS = 10_000
MAX_UNKNOWN = 1000

log = structlog.get_logger(__name__)


class Tokens:
    """The identity provider's keys, and the tokens that they have confirmed."""

    def __init__(self, jwks_url: str, claims: Claims) -> None:
        self._url = jwks_url
        self._claims = claims
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._document = b""
        self._known: OrderedDict[bytes, Key] = OrderedDict()
        self._wanted = asyncio.Event()
        self._asked_at = float("-inf")
        """When the last reading that succeeded began."""
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self.problem: str | None = "the identity provider's keys have not been read yet"

    async def follow(self) -> None:
        """Read the keys now, regularly, and when a token names one that is not known; until cancelled."""
        async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client:
            while True:
                began = time.monotonic()
                self._wanted.clear()
                await self._refresh(client, began)
                await asyncio.sleep(SOONEST_S)
                try:
                    async with asyncio.timeout(REFRESH_S if self.problem is None else 0):
                        await self._wanted.wait()
                except TimeoutError:
                    continue

    def learn(self, document: bytes, asked_at: float) -> None:
        """Go by these keys, asked for at this (monotonic) second. Raises ValueError, jwt.PyJWTError."""
        keys = read_keys(document)
        if document != self._document:
            self._known.clear()  # what a key confirmed that was withdrawn is confirmed no more
        self._keys, self._document, self.problem, self._asked_at = keys, document, None, asked_at

    def key_of(self, token: str, now_ms: int) -> Key:
        """The key that this token stands for. Raises TokenRefused."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is None:
            known = self._claims.key_of(self._verified(token), now_ms)
            self._known[digest] = known
            if len(self._known) > MAX_TOKENS:
                self._known.popitem(last=False)
        if known.until_ms is not None and now_ms >= known.until_ms:
            raise TokenRefused("the token has expired")
        return known

    def _verified(self, token: str) -> dict[str, Any]:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(key_id)
            if key is None:
                raise self._unknown_key(key_id)
            # The algorithm is that of the published key, whatever the token says; times are checked by our clock.
            options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
            found: dict[str, Any] = jwt.decode(token, key, algorithms=ALGORITHMS, options=options)
            return found
        except jwt.PyJWTError as error:
            raise TokenRefused(f"the token is not valid: {error}") from error

    def _unknown_key(self, key_id: Any) -> TokenRefused:
        """Refused for good only by a reading that began after the key was first named: it may be a new one."""
        now = time.monotonic()
        first_named = self._unknown.setdefault(str(key_id)[:200], now)
        if len(self._unknown) > MAX_UNKNOWN:
            self._unknown.popitem(last=False)
        self._wanted.set()
        if self.problem is not None or self._asked_at <= first_named:
            return TokenRefused(self.problem or "the identity provider is asked for its keys again", "unavailable")
        return TokenRefused("the token is signed by a key that the identity provider does not publish")

    async def _refresh(self, client: httpx.AsyncClient, began: float) -> None:
        try:
            self.learn(await _body(client, self._url), began)
        except (httpx.HTTPError, ValueError, jwt.PyJWTError) as error:
            self.problem = f"the identity provider's keys cannot be read: {type(error).__name__}"
            log.warning("no keys of the identity provider", problem=f"{type(error).__name__}: {error}")


def read_keys(body: bytes) -> dict[str | None, jwt.PyJWK]:
    """The signing keys of a JWKS document, by their id. Raises ValueError, jwt.PyJWTError."""
    raw = json.loads(body)
    if not isinstance(raw, dict) or not isinstance(raw.get("keys"), list):
        raise ValueError("no JWKS document")
    found = jwt.PyJWKSet([key for key in raw["keys"] if isinstance(key, dict)])
    return {key.key_id: key for key in found.keys if key.algorithm_name in ALGORITHMS and key.public_key_use != "enc"}


async def _body(client: httpx.AsyncClient, url: str) -> bytes:
    body = bytearray()
    async with client.stream("GET", url) as reply:
        if reply.status_code != 200:
            raise ValueError(f"HTTP {reply.status_code}")
        async for part in reply.aiter_bytes():
            body += part
            if len(body) > MAX_JWKS_BYTES:
                raise ValueError("too large")
    return bytes(body)
