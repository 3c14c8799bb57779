"""Requests as an SDK makes them, prepared once.

Of one path an SDK's requests differ in their body and a few headers, and making each of them anew takes it three times
the CPU of sending it (`python -m tests.bench.door`). So it makes one, which is never sent; what it would have sent is
sent from then on, each time with another body. What comes of that is the SDK's to say all the same, unless it is a
plain success: an error, a redirect or a lost connection is given to the SDK as if the request had been its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx2
import orjson
from yarl import URL

from services.executor.providers.transport import Transport
from services.executor.providers.wire import UNCOMPRESSED, counted

# Says to the SDK that the response is to be left unread; it is nothing to the provider.
_UNREAD = "x-stainless-raw-response"
_READ_TIMEOUT = "x-stainless-read-timeout"


class Sdk(Protocol):
    """The SDK's way for paths that it has no method for: those turn requests and answers into typed objects."""

    async def post(self, path: str, *, cast_to: Any, body: Any, options: Any) -> Any: ...


class Prepared:
    """The requests of one path. `sdk` makes a client of the SDK that uses the given HTTP client. Names of headers are
    in small letters."""

    def __init__(self, sdk: Callable[[httpx2.AsyncClient], Sdk], path: str, transport: Transport) -> None:
        self._sdk = sdk
        self._path = path
        self._transport = transport
        self._request: httpx2.Request | None = None

    async def whole(self, body: dict[str, Any], headers: Mapping[str, str], timeout_s: float) -> bytes:
        """The whole body of the answer. Raises what the SDK does, and as `counted`."""
        came = await self._sent(body, headers, timeout_s)
        if isinstance(came, httpx2.Response) and came.is_success:
            try:
                return await came.aread()
            except httpx2.RequestError as error:
                lost = error
            finally:
                await came.aclose()
            came = lost
        response: httpx2.Response = await self._by_sdk(_Tried(came, self._transport), body, headers, timeout_s)
        return response.content

    @asynccontextmanager
    async def streamed(
        self, body: dict[str, Any], headers: Mapping[str, str], timeout_s: float
    ) -> AsyncIterator[httpx2.Response]:
        """The answer, not yet read. Raises as `whole`; reading it, what httpx2 does."""
        came = await self._sent(body, headers, timeout_s)
        if not isinstance(came, httpx2.Response) or not came.is_success:
            unread = {**headers, _UNREAD: "stream"}
            came = await self._by_sdk(_Tried(came, self._transport), body, unread, timeout_s)
        try:
            yield came
        finally:
            await came.aclose()

    async def _sent(
        self, body: dict[str, Any], headers: Mapping[str, str], timeout_s: float
    ) -> httpx2.Response | httpx2.RequestError:
        if self._request is None:
            kept = _Kept()
            await self._by_sdk(kept, {}, {}, timeout_s)
            assert kept.request is not None, "the SDK has sent it"
            self._request = kept.request
            self._url = URL(str(kept.request.url), encoded=True)
            self._headers = {n: value for n, value in kept.request.headers.items() if n != "content-length"}
        given = {**self._headers, **headers, _READ_TIMEOUT: str(timeout_s)}
        allowed = dict.fromkeys(("pool", "connect", "read"), timeout_s)
        try:
            response = await self._transport.send(self._request, self._url, given, orjson.dumps(body), allowed)
        except httpx2.RequestError as error:
            return error
        await counted(response)
        return response

    async def _by_sdk(
        self, transport: httpx2.AsyncBaseTransport, body: dict[str, Any], headers: Mapping[str, str], timeout_s: float
    ) -> Any:
        hooks = {"response": [counted]}
        http = httpx2.AsyncClient(transport=transport, follow_redirects=True, event_hooks=hooks, headers=UNCOMPRESSED)
        options = {"headers": headers, "timeout": timeout_s}
        return await self._sdk(http).post(self._path, cast_to=httpx2.Response, body=body, options=options)


class _Kept(httpx2.AsyncBaseTransport):
    """Keeps the request that it is to send, and sends nothing."""

    request: httpx2.Request | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.request = request
        return httpx2.Response(200, request=request)


class _Tried(httpx2.AsyncBaseTransport):
    """The first request has been sent, and this came of it. Those that follow on it are sent."""

    def __init__(self, came: httpx2.Response | httpx2.RequestError, transport: Transport) -> None:
        self._came: httpx2.Response | httpx2.RequestError | None = came
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        came, self._came = self._came, None
        if isinstance(came, httpx2.RequestError):
            raise came
        return came or await self._transport.handle_async_request(request)
