"""What carries an SDK's requests: aiohttp, below the HTTP client that the SDK works with.

That client's own pool looks at each of its connections for each request, and takes three times the CPU. What is raised
here decides whether money may have gone (`wire.of_lost_connection`): an error's name says whether the request was sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from yarl import URL

MAX_CONNECTIONS = 1000
# Shorter than servers keep theirs: a request on a connection that is just being closed is lost, and nobody knows how.
KEPT_S = 5.0

# In this order: the first that fits counts. What is not named below was, perhaps, sent.
_BEFORE_THE_REQUEST: tuple[tuple[type[Exception], type[httpx2.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx2.ConnectTimeout),
    (aiohttp.ClientConnectorError, httpx2.ConnectError),
    (aiohttp.InvalidURL, httpx2.UnsupportedProtocol),
    (aiohttp.NonHttpUrlClientError, httpx2.UnsupportedProtocol),
)
_SENT_PERHAPS: tuple[tuple[type[Exception], type[httpx2.TransportError]], ...] = (
    (TimeoutError, httpx2.ReadTimeout),
    (aiohttp.ServerDisconnectedError, httpx2.RemoteProtocolError),
    (aiohttp.ClientPayloadError, httpx2.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx2.RemoteProtocolError),
    (aiohttp.ClientError, httpx2.ReadError),
    (OSError, httpx2.ReadError),
)


class Transport(httpx2.AsyncBaseTransport):
    """Connections of one provider. `HTTPS_PROXY` and the like count, as with the SDK's own."""

    def __init__(self) -> None:
        self._tls = httpx2.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = URL(str(request.url), encoded=True)
        headers, allowed = request.headers.multi_items(), request.extensions.get("timeout", {})
        return await self.send(request, url, headers, await request.aread(), allowed)

    async def send(
        self,
        request: httpx2.Request,
        url: URL,
        headers: Mapping[str, str] | list[tuple[str, str]],
        body: bytes,
        allowed: Mapping[str, float | None],
    ) -> httpx2.Response:
        """The response to a request like this one, with these headers and this body. `allowed`: seconds for what."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEPT_S, ssl=self._tls)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        timeout = aiohttp.ClientTimeout(
            total=None, connect=allowed.get("pool"), sock_connect=allowed.get("connect"), sock_read=allowed.get("read")
        )
        with _named():
            response = await self._session.request(
                request.method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                timeout=timeout,
                proxy=proxy_for(url.scheme, url.host or ""),
            )
        return httpx2.Response(response.status, headers=response.raw_headers, stream=_Body(response), request=request)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Body(httpx2.AsyncByteStream):
    """A response's body as it comes. Left before its end, its connection is closed: so the provider stops."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _named():
            async for part in self._response.content.iter_any():
                yield part

    async def aclose(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


@lru_cache(maxsize=100)
def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that the environment names. Found once: aiohttp would look for it, in a thread, at each request."""
    proxies = getproxies()
    return None if proxy_bypass(host) else proxies.get(scheme, proxies.get("all"))


@contextmanager
def _named() -> Iterator[None]:
    """aiohttp's errors by the names that the SDK knows."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        for kind, named in (*_BEFORE_THE_REQUEST, *_SENT_PERHAPS):
            if isinstance(error, kind):
                raise named(str(error) or type(error).__name__) from error
        raise
