"""Orders over HTTP are answered as the OpenAPI document says, whatever is sent."""

from __future__ import annotations

import asyncio

from tests.conformance import conforms
from tests.integration.gateway.conftest import Bench


async def test_orders_are_answered_as_the_document_says(bench: Bench) -> None:
    async with bench.gateway() as gateway:
        operator = await bench.key(gateway, "operator")
        document = (await gateway.client.get("/openapi.json")).json()
        others = tuple(path for path in document["paths"] if path != "/v1/control")
        asked = await asyncio.to_thread(conforms, document, gateway.url, operator, examples=15, without=others)
        assert asked >= 20
