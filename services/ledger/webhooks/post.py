"""One try: resolve, look where that leads, and POST there. No redirect is followed, no proxy taken, no answer read.

A URL is a customer's words, and the request comes from inside: it must not reach what only the inside may reach. So the
name is resolved once, every address that it has is looked at, and the connection goes to an address that was seen; its
certificate is checked against the name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx
import structlog

from services.ledger.webhooks.retry import Answer

USER_AGENT = "skeldir-webhooks/1"
# Threads of its own: a name server that says nothing must not hold back whoever else resolves a name.
_RESOLVERS = ThreadPoolExecutor(max_workers=32, thread_name_prefix="resolve")
log = structlog.get_logger(__name__)

_NAT64 = IPv6Network("64:ff9b::/96")


class Refused(Exception):
    """The address is not one that may be called."""


async def post(url: str, headers: dict[str, str], body: bytes, *, timeout_s: float, allow_private: bool) -> Answer:
    """What came of it. Nothing is raised for what the other side does."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _post(httpx.URL(url), headers, body, timeout_s, allow_private)
    except TimeoutError:
        return Answer(problem=f"no answer within {timeout_s:g} s")
    except Refused as error:
        return Answer(problem=str(error))
    except (OSError, httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        # The kind alone: an error's words may quote the URL, and that may have a token in it.
        return Answer(problem=f"cannot be reached: {type(error).__name__}")
    except Exception as error:  # nobody foresaw it; as a failure it is tried again, and given up in the end
        log.error("webhook cannot be sent", error=type(error).__name__)
        return Answer(problem=f"cannot be sent: {type(error).__name__}")


async def _post(url: httpx.URL, headers: dict[str, str], body: bytes, timeout_s: float, allow_private: bool) -> Answer:
    if url.scheme != "https" and not allow_private:
        raise Refused("refused: only https is allowed")
    port = url.port or (443 if url.scheme == "https" else 80)
    name = url.raw_host.decode()
    address = await _resolve(name, port, allow_private)
    # A client for each try: a kept connection to a shared address was checked for another name.
    async with httpx.AsyncClient(verify=_tls(), trust_env=False, follow_redirects=False, timeout=timeout_s) as client:
        request = client.build_request(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers={
                **headers,
                "host": url.netloc.decode(),
                "content-type": "application/json",
                "user-agent": USER_AGENT,
            },
            extensions={"sni_hostname": name},
        )
        response = await client.send(request, stream=True)
        await response.aclose()
    return Answer(response.status_code, retry_after=response.headers.get("retry-after", ""))


async def _resolve(host: str, port: int, allow_private: bool) -> str:
    """An address of the host. Raises Refused where any of them is not public."""
    look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_RESOLVERS, look)
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not allow_private and not all(is_public(ip_address(address)) for address in addresses):
        raise Refused("refused: the address is not a public one")
    return addresses[0]


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is on the internet; of an IPv6 address that carries an IPv4 address, whether that is."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)
