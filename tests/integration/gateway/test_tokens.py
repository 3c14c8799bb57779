"""An identity provider's tokens at the door: its keys come over HTTP, change, and may be away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from shared import tokens
from tests.integration.gateway.conftest import Bench, Gateway, eventually

ISSUER = "https://idp.example"


class Provider:
    """Publishes one key, at a time."""

    def __init__(self) -> None:
        self.document: bytes | None = None
        self.rotate("first")

    def rotate(self, kid: str) -> None:
        self._kid, self._key = kid, ec.generate_private_key(ec.SECP256R1())
        self.document = json.dumps(
            {"keys": [{**ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True), "kid": kid}]}
        ).encode()

    def token(self, **claims: Any) -> str:
        about = {"iss": ISSUER, "aud": "skeldir", "sub": "ann", "exp": time.time() + 600, **claims}
        return jwt.encode(about, self._key, "ES256", headers={"kid": self._kid})

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its address."""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if provider.document else 500)
                self.end_headers()
                self.wfile.write(provider.document or b"")

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/jwks"
        finally:
            server.shutdown()
            server.server_close()


async def test_tokens_are_keys_while_their_providers_keys_come_and_go(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "SOONEST_S", 0.05)
    provider, document = Provider(), b""
    document, provider.document = provider.document or b"", None
    about: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_audience": "skeldir"}
    with provider.serving() as url:
        async with bench.gateway(jwt_jwks_url=url, **about) as gateway:
            token = provider.token(tenant_id=str(bench.tenant))
            away = await gateway.get("/v1/models", token)
            assert (away.status_code, away.json()["error"]["code"]) == (503, "identity_unavailable")
            provider.document = document
            await eventually(lambda: _enters(gateway, token), "the provider is back")
            body = {"task_type": "route", "prompt": {"text": "x"}, "request_id": uuid4().hex}
            assert (await gateway.post("/v1/tasks", body, token)).status_code == 202
            another = {**body, "request_id": uuid4().hex, "user_id": str(uuid4())}
            assert (await gateway.post("/v1/tasks", another, token)).status_code == 403, "its own user only"
            order = {"type": "kill_switch.released", "scope": {}, "reason": "x"}
            assert (await gateway.post("/v1/control", order, token)).status_code == 403, "a producer's"
            provider.rotate("second")
            renewed = provider.token(tenant_id=str(bench.tenant))
            await eventually(lambda: _enters(gateway, renewed), "the new key is known")
            refused = await gateway.get("/v1/models", token)
            assert (refused.status_code, refused.json()["error"]["code"]) in {
                (401, "invalid_token"),
                (503, "identity_unavailable"),  # it may have been asked again, just now
            }


async def test_without_an_identity_provider_a_token_is_an_unknown_key(bench: Bench) -> None:
    async with bench.gateway() as gateway:
        refused = await gateway.get("/v1/models", Provider().token(tenant_id=str(bench.tenant)))
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unknown_key")


async def _enters(gateway: Gateway, token: str) -> bool:
    return (await gateway.get("/v1/models", token)).status_code == 200
