"""`/docs` is whole by itself: a key that is typed into it stays between the browser and the gateway."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from unittest.mock import Mock

import httpx
import pytest

from services.gateway.app import application


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Of a gateway with nothing behind it."""
    transport = httpx.ASGITransport(application(Mock(), Mock(), Mock()))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as asking:
        yield asking


async def test_the_page_asks_nothing_of_other_servers(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    asked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    files = [one for one in asked if one != "data:,"]
    assert len(files) == 3 and not [one for one in files if "//" in one]
    for name in files:
        file = await client.get(f"/{name}")
        assert file.status_code == 200 and file.content, name
        assert file.headers["x-content-type-options"] == "nosniff"
    assert "SwaggerUIBundle" in (await client.get("/docs/swagger-ui-bundle.js")).text


async def test_no_other_script_may_run_on_it(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert not re.search(r"<script(?![^>]* src=)", page.text), "a script in the page itself"
