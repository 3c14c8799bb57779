"""Bearer tokens: who they are of, and which signatures count."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from shared.token_claims import Claims, TokenRefused, looks_like_token, user_of
from shared.tokens import Tokens, read_keys

NOW_MS = 1_800_000_000_000
TENANT = uuid4()
CLAIMS = Claims("https://idp.example", "skeldir")
GOOD: dict[str, Any] = {
    "iss": "https://idp.example",
    "aud": ["skeldir", "other"],
    "sub": "ann@example.com",
    "tenant_id": str(TENANT),
    "exp": NOW_MS // 1000 + 60,
}
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def published(*, without: str = "") -> bytes:
    """The provider's keys."""
    keys = [
        {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "rsa", "use": "sig", "alg": "RS256"},
        {**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "ec", "use": "sig"},
        {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "for encryption", "use": "enc"},
    ]
    return json.dumps({"keys": [key for key in keys if key["kid"] != without]}).encode()


@pytest.fixture
def tokens() -> Tokens:
    found = Tokens("http://unused", CLAIMS)
    found.learn(published(), time.monotonic())
    return found


def signed(kid: str = "rsa", **claims: Any) -> str:
    key, algorithm = (EC_KEY, "ES256") if kid == "ec" else (RSA_KEY, "RS256")
    return jwt.encode({**GOOD, **claims}, key, algorithm, headers={"kid": kid})


def test_a_token_is_the_key_of_its_user(tokens: Tokens) -> None:
    for kid in ("rsa", "ec"):
        key = tokens.key_of(signed(kid), NOW_MS)
        assert (key.tenant_id, key.role, key.user_id) == (TENANT, "producer", user_of(CLAIMS.issuer, GOOD["sub"]))
        assert key.until_ms == NOW_MS + 90_000 and looks_like_token(signed(kid))
    user = uuid4()
    assert tokens.key_of(signed(sub=str(user), role="operator"), NOW_MS).user_id == user


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"aud": "other"},
        {"aud": None},
        {"exp": NOW_MS // 1000 - 31},
        {"exp": None},
        {"exp": float(2**50)},
        {"nbf": NOW_MS // 1000 + 31},
        {"sub": ""},
        {"sub": None},
        {"role": "admin"},
        {"role": ["operator"]},
        {"tenant_id": "acme"},
        {"tenant_id": None},
    ],
)
def test_a_token_that_does_not_say_enough_is_refused(tokens: Tokens, claims: dict[str, Any]) -> None:
    payload = {name: value for name, value in {**GOOD, **claims}.items() if value is not None}
    with pytest.raises(TokenRefused) as refused:
        tokens.key_of(_raw(payload), NOW_MS)
    assert refused.value.kind == "invalid"


def _raw(payload: dict[str, Any]) -> str:
    """Signed whatever it says: the library that signs would refuse some of it."""
    header = json.dumps({"alg": "RS256", "kid": "rsa"}).encode()
    return jwt.PyJWS().encode(json.dumps(payload).encode(), RSA_KEY, "RS256", headers=json.loads(header))


def test_a_signature_that_anybody_could_make_does_not_count(tokens: Tokens) -> None:
    public = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    another = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    payload = json.dumps(GOOD).encode()
    by_public_key = jwt.PyJWS()
    by_public_key._algorithms["HS256"].prepare_key = lambda key: key  # type: ignore[method-assign]
    forged = [
        by_public_key.encode(payload, public, "HS256", headers={"kid": "rsa"}),
        jwt.encode(GOOD, "", "none", headers={"kid": "rsa"}),
        jwt.encode(GOOD, another, "RS256", headers={"kid": "rsa"}),
        signed("rsa")[:-8] + "AAAAAAAA",
        signed("for encryption"),
        "a.b.c",
    ]
    for token in forged:
        with pytest.raises(TokenRefused):
            tokens.key_of(token, NOW_MS)


def test_a_token_is_looked_at_again_when_its_time_is_over_or_its_key_withdrawn(tokens: Tokens) -> None:
    token = signed()
    tokens.key_of(token, NOW_MS)
    with pytest.raises(TokenRefused, match="expired"):
        tokens.key_of(token, NOW_MS + 90_000)
    tokens.learn(published(without="rsa"), time.monotonic())
    with pytest.raises(TokenRefused):
        tokens.key_of(token, NOW_MS)


def test_a_key_that_is_not_known_yet_is_asked_for_before_its_token_is_refused() -> None:
    tokens = Tokens("http://unused", CLAIMS)
    tokens.learn(published(without="rsa"), time.monotonic())
    said = []
    for document in (published(without="rsa"), published(without="rsa"), published()):
        with pytest.raises(TokenRefused) as refused:
            tokens.key_of(signed(), NOW_MS)
        said.append(refused.value.kind)
        asked_at = time.monotonic() if said != ["unavailable"] else float("-inf")  # the first was asked for before
        tokens.learn(document, asked_at)
    assert said == ["unavailable", "unavailable", "invalid"]
    assert tokens.key_of(signed(), NOW_MS).tenant_id == TENANT


def test_without_keys_nobody_is_told_that_their_token_is_wrong() -> None:
    with pytest.raises(TokenRefused) as refused:
        Tokens("http://unused", CLAIMS).key_of(signed(), NOW_MS)
    assert refused.value.kind == "unavailable"
    for odd in (b"", b"[]", b'{"keys": 1}', b'{"keys": [[], {"kty": "RSA", "n": 5}, {"kty": 1}]}'):
        with pytest.raises((ValueError, jwt.PyJWTError)):
            read_keys(odd)
    assert read_keys(b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}') == {}, "a shared secret is no key"


@given(st.text(max_size=60), st.text(max_size=60))
def test_users_of_two_issuers_are_never_one(subject: str, issuer: str) -> None:
    try:
        UUID(subject)
    except ValueError:
        assert user_of("https://a", subject) != user_of(f"https://b{issuer}", subject)
        assert user_of("https://a", subject) == user_of("https://a", subject)
