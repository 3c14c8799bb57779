"""Keys at the doors: rotated with an overlap, and refused on every gateway as soon as they are revoked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.stack import Stack, eventually, port_of


@pytest.fixture
def second_gateway(stack: Stack) -> Iterator[str]:
    """A gateway beside that of `skeldir up`, on the same log; its URL."""
    servers = {"SKELDIR_REDIS_URL": stack.ready["redis_url"], "SKELDIR_DATABASE_URL": stack.ready["database_url"]}
    command = [sys.executable, "-m", "skeldir", "serve", "gateway"]
    environment = stack.environment | servers | {"SKELDIR_GATEWAY_PORT": "0"}
    with (stack.directory / "second.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def ready() -> str | None:
        assert process.poll() is None, (stack.directory / "second.log").read_text()[-2000:]
        url = f"http://127.0.0.1:{port_of(process.pid)}"
        try:
            return url if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200 else None
        except (httpx.TransportError, httpx.InvalidURL):
            return None

    try:
        yield eventually(ready, "the second gateway is ready", 60)
    finally:
        process.terminate()
        process.wait(40)


def created(stack: Stack, *options: str) -> dict[str, Any]:
    who = ("--tenant", str(uuid4()), "--user", str(uuid4()), "--role", "producer")
    found: dict[str, Any] = json.loads(stack.cli("key", "create", *who, *options, "--json").stdout)
    return found


def opens(url: str, key: str) -> bool:
    reply = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    return reply.status_code == 200


def test_a_revoked_key_is_refused_on_every_gateway(stack: Stack, second_gateway: str) -> None:
    """Peers' users report keys that stay valid on other pods."""
    gateways = (stack.ready["gateway_url"], second_gateway)
    made = created(stack)
    eventually(lambda: all(opens(url, made["key"]) for url in gateways), "the key works on both")
    stack.cli("key", "revoke", made["key_id"])
    eventually(lambda: not any(opens(url, made["key"]) for url in gateways), "both refuse it", 10)


def test_a_rotated_key_works_for_the_overlap_and_not_longer(stack: Stack) -> None:
    url, old = stack.ready["gateway_url"], created(stack)

    def rotated(key: dict[str, Any], minutes: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            stack.cli("key", "rotate", key["key_id"], "--overlap-minutes", minutes, "--json").stdout
        )
        eventually(lambda: opens(url, found["key"]), "the new key works")
        return found

    new = rotated(old, "5")
    assert (new["tenant_id"], new["user_id"], new["role"]) == (old["tenant_id"], old["user_id"], "producer")
    assert opens(url, old["key"]), "for five minutes more"
    newest = rotated(new, "0.03")
    eventually(lambda: not opens(url, new["key"]), "it has ended", 10)
    assert opens(url, newest["key"]) and opens(url, old["key"])
    listed = {one["key_id"] for one in json.loads(stack.cli("key", "list", "--json").stdout)}
    assert {newest["key_id"], old["key_id"]} <= listed and new["key_id"] not in listed


def test_a_key_with_an_end_ends(stack: Stack) -> None:
    made = created(stack, "--days", "0.00003")
    url = stack.ready["gateway_url"]
    stack.key(str(uuid4()))  # the gateway knows this one, and so the one before it
    eventually(lambda: not opens(url, made["key"]), "it has ended", 10)
    refused = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {made['key']}"}, trust_env=False)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unknown_key")
